"""Real processes and real training: what a user's machine does to a run, and the figures the project promises."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import FEDQ, begun, lines, start, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parent.parent
SHORT = ["--clients", "8", "--rounds", "30", "--local-steps", "5", "--batch-size", "16", "--seed", "5"]


def simulate(folder: Path, *flags: str) -> dict[str, Any]:
    done = subprocess.run([*FEDQ, "simulate", *flags, "--json"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    totals: dict[str, Any] = json.loads(done.stdout)
    return totals


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("straight")
    return folder, simulate(folder, *SHORT)


def test_two_processes_give_the_same_bits(straight: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, totals = straight
    again = simulate(tmp_path, *SHORT, "--workers", "2", "--engine", "local")
    assert lines(tmp_path / again["run_dir"]) == lines(folder / totals["run_dir"])
    assert again["weights_sha256"] == totals["weights_sha256"]


@pytest.mark.parametrize("point", range(20))
def test_kill_and_resume(straight: tuple[Path, dict[str, Any]], tmp_path: Path, point: int) -> None:
    """kill -9 at a random moment of a random round; the resumed run ends with the same weights and metrics."""
    moment = random.Random(point)
    process = start(tmp_path, "simulate", *SHORT)
    run = begun(tmp_path / "runs", moment.randrange(29), process)
    time.sleep(moment.uniform(0, 0.1))
    process.kill()
    process.communicate()
    done = subprocess.run([*FEDQ, "resume", str(run), "--json"], cwd=tmp_path, capture_output=True, text=True)
    folder, totals = straight
    if done.returncode == 4:  # the kill came after the last round
        assert "the run is done" in done.stderr
        resumed = json.loads((run / "run.json").read_text())
    else:
        assert done.returncode == 0, done.stderr
        resumed = json.loads(done.stdout)
    assert resumed["weights_sha256"] == totals["weights_sha256"]
    assert lines(run) == lines(folder / totals["run_dir"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(tmp_path: Path, number: int) -> None:
    """Saved, and the same bits later. A terminal that is closed is no interrupt where `nohup` keeps that away."""
    away = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = start(tmp_path, "simulate", *SHORT, "--rounds", "100000")  # no signal comes after the last
    signal.signal(signal.SIGHUP, away)
    run = begun(tmp_path / "runs", 3, process)
    process.send_signal(signal.SIGHUP)
    begun(tmp_path / "runs", len(lines(run)) + 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"fedq resume runs/{run.name}" in err
    assert "Traceback" not in out + err
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    rounds = ["--rounds", str(len(lines(run)) + 2)]
    done = subprocess.run([*FEDQ, "resume", str(run), *rounds, "--json"], cwd=tmp_path, capture_output=True, text=True)
    (tmp_path / "straight").mkdir()
    straight = simulate(tmp_path / "straight", *SHORT, *rounds)
    assert json.loads(done.stdout)["weights_sha256"] == straight["weights_sha256"]
    assert lines(run) == lines(tmp_path / "straight" / straight["run_dir"])


def test_interrupt_twice(tmp_path: Path) -> None:
    """The second does not wait for the round, which takes a while."""
    process = start(tmp_path, "simulate", *SHORT, "--local-steps", "100000")
    run = begun(tmp_path / "runs", 0, process)
    until((run / "log.txt").exists, process)  # signals are heard before it is opened
    process.send_signal(signal.SIGINT)
    assert process.stderr
    said = ""
    while "finishing this round" not in said:
        said = process.stderr.readline()
        assert said
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped in the first round" in err
    assert "Traceback" not in err
    assert lines(run) == []


def test_a_run_in_use(tmp_path: Path) -> None:
    process = start(tmp_path, "simulate", *SHORT, "--rounds", "1000")
    run = begun(tmp_path / "runs", 1, process)
    try:
        for words in (["resume", str(run)], ["simulate", *SHORT, "--rounds", "1000"]):
            second = subprocess.run([*FEDQ, *words], cwd=tmp_path, capture_output=True, text=True)
            assert second.returncode == 4
            assert f"error[FQ204]: the run is in use by process {process.pid}" in second.stderr
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seed", range(5))
def test_fedvote_on_digits(seed: int, tmp_path: Path) -> None:
    """The main job: soft accuracy >= 0.93, deployed >= 0.89, one bit a voted weight."""
    sizes = ["--clients", "20", "--rounds", "20", "--local-steps", "20", "--batch-size", "32"]
    flags = ["--strategy", "fedvote", "--data", "digits", *sizes]
    totals = simulate(tmp_path, *flags, "--partition", "dirichlet:0.5", "--seed", str(seed))
    assert totals["accuracy"] >= 0.93
    assert totals["deployed_accuracy"] >= 0.89
    assert totals["up_bytes"] == 20 * 20 * (64 * 128 + 128 * 64) // 8


def test_fedvote_on_fashion_mnist(data_dir: Path, tmp_path: Path) -> None:
    """FedVote's LeNet-5 at full width: 207,204 bytes a client and round, soft accuracy >= 0.80 after two rounds."""
    flags = "--strategy fedvote --data fashion_mnist --model fedvote_lenet5 --clients 31 --rounds 2 --local-steps 40"
    more = ["--batch-size", "100", "--lr", "0.05", "--partition", "dirichlet:0.5"]
    data = ["--data-dir", str((data_dir / "fashion_mnist").resolve())]
    # a process of its own between: a child starts with the peak of the one that started it
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    words = [sys.executable, "-c", measure, *FEDQ, "simulate", *flags.split(), *more, *data, "--json", "--quiet"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, peak_kib = done.stdout.splitlines()
    totals = json.loads(said)
    assert totals["accuracy"] >= 0.80
    assert totals["up_bytes"] == 2 * 31 * 207_204
    assert int(peak_kib) < 1.5e9 / 1024


def test_demo(tmp_path: Path) -> None:
    """Offline, into one folder; the picture's bytes follow from the runs alone."""
    from fedq.report.comparison import Comparison
    from fedq.report.plots import accuracy_against_bytes

    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([*FEDQ, "demo"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("picture: runs/demo/accuracy_vs_bytes.png")
    picture = (tmp_path / "runs/demo/accuracy_vs_bytes.svg").read_bytes()
    assert len(picture) > 10_000
    runs = sorted((file.parent for file in tmp_path.glob("runs/demo/*/run.toml")), reverse=True)  # as they were played
    again, _ = accuracy_against_bytes(Comparison.of(runs), tmp_path / "runs/again")
    assert again.read_bytes() == picture
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}


def test_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    """A run, its report and a failure leave files in --out only, at home caches of libraries, and no process."""
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | {"HOME": str(home)}
    (tmp_path / "here").mkdir()
    for words, status in (
        (("simulate", *SHORT, "--rounds", "2", "--out", "made"), 0),
        (("report", "made", "--out", "made/r.html"), 0),
        (("simulate", "--strategy", "fedavg", "--lr", "1e30", "--set", "model.norm=none", "--out", "made"), 5),
    ):
        done = subprocess.run([*FEDQ, *words], cwd=tmp_path / "here", env=env, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    assert {p.name for p in (tmp_path / "here").iterdir()} == {"made"}
    assert {p.relative_to(home).parts[:2] for p in home.rglob("*") if p.is_file()} <= {(".cache", "matplotlib")}
    assert not [p for p in Path("/proc").glob("[0-9]*/cwd") if _is(p, tmp_path / "here")]


def _is(link: Path, folder: Path) -> bool:
    try:
        return link.readlink() == folder
    except OSError:
        return False


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook(notebook: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    shown = [o.data.get("text/html", "") for o in outputs if "data" in o]
    assert any("<svg" in html and "<table" in html for html in shown)  # the comparison
    assert any('<progress value="8" max="8">' in html for html in shown)  # a bar, changed in place
    assert not any("round= " in o.get("text", "") for o in outputs)
