"""Fixtures. No test needs a network; those on real image sets skip where the data are absent."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import settings

settings.register_profile("fedq", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("fedq")
# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def data_dir() -> Path:
    """A folder of image sets in the hub's layout, named by FEDQ_TEST_DATA or beside the repository."""
    folder = Path(os.environ.get("FEDQ_TEST_DATA", ROOT.parent / "shared" / "data" / "hf"))
    if not folder.is_dir():
        pytest.skip("no image sets: set FEDQ_TEST_DATA to a folder that holds fashion_mnist/")
    return folder


@pytest.fixture
def fedq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process, in an empty folder: exit status, stdout, stderr."""
    from fedq.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedq", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


WORDS = {"fever": "cough heat ache chill", "bone": "joint knee break cast", "eye": "sight lens blur glare"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Labelled texts of three sites as a CSV file."""
    from fedq.rng import rng

    random, folder = rng(0, "texts"), tmp_path / "texts"
    folder.mkdir()
    rows = ["site,topic,body"]
    for i in range(240):
        topic = list(WORDS)[i % 3]
        body = " ".join(random.choice([*WORDS[topic].split(), "the", "a", "of"], 6))
        rows.append(f"site{i // 100},{topic},{body} {i}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return folder


TINY = ("--clients", "4", "--rounds", "2", "--local-steps", "2", "--batch-size", "8", "--set", "model.hidden=[16]")


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Flags of a run that takes a moment."""
    return TINY
