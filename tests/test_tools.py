"""`fedq explain`, `new`, `export`, `--only-client`, and the shell's completion."""

import ast
import csv
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from fedq.errors import CODES
from tests.conftest import ROOT

Fedq = Callable[..., tuple[int, str, str]]

# ------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(fedq: Fedq, code: str) -> None:
    """A cause, a remedy, a command that exists, and the exit status that the command line ends with."""
    from fedq.report.explanations import EXPLAINED

    status, out, _ = fedq("explain", code.lower())
    assert status == 0
    found = EXPLAINED[code]
    said = " ".join(out.split())
    assert all(text in said for text in (code, CODES[code], found.cause, found.remedy, found.command))
    assert max(map(len, out.splitlines())) <= 80
    assert fedq(found.command.split()[1], "--help")[0] == 0


def test_explain_lists_and_refuses(fedq: Fedq) -> None:
    assert [line.split()[0] for line in fedq("explain")[1].splitlines()] == list(CODES)
    assert fedq("explain", "301") == fedq("explain", "FQ301")
    status, _, err = fedq("explain", "FQ30")
    assert (status, "fedq explain lists them" in err) == (2, True)


# ------------------------------------------------------------------------------------------------- new


def loaded(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(kind: str, module: Any, class_: str) -> None:
    from fedq import testing

    found = getattr(module, class_)
    getattr(testing, f"check_{kind}")(found() if kind == "codec" else found)


@pytest.mark.parametrize("kind", ["strategy", "codec", "client"])
def test_new_package_holds_its_contract(fedq: Fedq, kind: str) -> None:
    """Away from fedq's sources: a module, a test that passes, and an entry point to what is in it."""
    import tomllib

    status, out, err = fedq("new", kind, "my_own")
    assert status == 0, err
    folder = Path("fedq_my_own")
    assert {str(p) for p in folder.iterdir()} == set(out.split())
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    ((name, entry),) = next(iter(project["project"]["entry-points"].values())).items()
    module = loaded(folder / "fedq_my_own.py")
    assert name == "my_own"
    assert hasattr(module, entry.split(":")[1])
    check(kind, module, "MyOwn")
    assert f"check_{kind}(MyOwn" in (folder / "test_my_own.py").read_text()
    assert fedq("new", kind, "my_own")[0] == 4


@pytest.mark.parametrize(
    ("kind", "registry"), [("strategy", "strategies"), ("codec", "kernels"), ("client", "clients")]
)
def test_new_in_the_sources(fedq: Fedq, tmp_path: Path, kind: str, registry: str) -> None:
    """Its file, a test, and a line of the registry, in the form that lint wants."""
    copytree(ROOT / "fedq", tmp_path / "fedq", ignore=ignore_patterns("__pycache__", "native", "*.so"))
    (tmp_path / "tests").mkdir()
    status, _, err = fedq("new", kind, "my_own")
    assert status == 0, err
    check(kind, loaded(tmp_path / "fedq" / registry / "my_own.py"), "MyOwn")
    text = (tmp_path / "fedq" / registry / "__init__.py").read_text()
    line = '    "my_own": MyOwn(),' if kind == "codec" else f'    "my_own": "fedq.{registry}.my_own:MyOwn",'
    assert line in text.splitlines()
    ast.parse(text)
    for folder in ("fedq", "tests"):
        lint = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), folder]
        done = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "code"), [("My-Own", "FQ106"), ("fedavg", "FQ105"), ("1x", "FQ106")])
def test_new_refuses(fedq: Fedq, name: str, code: str) -> None:
    status, _, err = fedq("new", "strategy", name)
    assert (status, err.startswith(f"error[{code}]")) == (2, True)
    assert not list(Path().iterdir())


# ------------------------------------------------------------------------------------------------- export


def test_tables(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """CSV, Parquet and `load_runs` hold every round of every run."""
    import pandas as pd

    import fedq as package
    from fedq.runs import open_run

    for seed in ("0", "1"):
        fedq("simulate", *tiny, "--seed", seed, "--quiet")
    assert fedq("export", "csv", "runs")[:2] == (0, "runs.csv\n")
    assert fedq("export", "parquet", "runs", "--out", "x/a.parquet")[:2] == (0, "x/a.parquet\n")
    lines = [m for path in sorted(Path("runs").iterdir()) for m in open_run(path).records()]
    read = [package.load_runs(named) for named in ("runs/*", "runs")]
    for table in (pd.read_csv("runs.csv"), pd.read_parquet("x/a.parquet"), *read):
        assert list(table["up_bytes"]) == [m["up_bytes"] for m in lines]
        assert list(table["accuracy"]) == pytest.approx([m["accuracy"] for m in lines])
        assert list(table["seed"]) == [0, 0, 1, 1]
        assert list(table["up_bytes_so_far"])[1] == lines[0]["up_bytes"] + lines[1]["up_bytes"]


def test_tensorboard(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """Event files hold each number of each round at its round."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    fedq("simulate", *tiny, "--quiet")
    assert fedq("export", "tensorboard", "runs")[:2] == (0, "tensorboard\n")
    (file,) = Path("tensorboard").glob("*/events*")
    data, found = file.read_bytes(), {}
    while data:  # length, its checksum, the event, its checksum
        (n,) = struct.unpack("<Q", data[:8])
        event = proto.Event.FromString(data[12 : 12 + n])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + n :]
    (run,) = Path("runs").iterdir()
    for m in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert found["accuracy", m["round"]] == pytest.approx(m["accuracy"])
        assert found["up_bytes", m["round"]] == m["up_bytes"]


def test_runs_of_one_name_stay_apart(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """The same config played into two folders: what they export is named by its folder too."""
    for out in ("one", "two"):
        fedq("simulate", *tiny, "--quiet", "--out", out)
    assert fedq("export", "csv", "one", "two")[0] == 0
    with Path("runs.csv").open() as file:
        found = {row["run"] for row in csv.DictReader(file)}
    (name,) = (run.name for run in Path("one").iterdir())
    assert found == {f"one/{name}", f"two/{name}"}


@pytest.mark.filterwarnings("ignore")  # its own
def test_mlflow(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    mlflow = pytest.importorskip("mlflow")
    fedq("simulate", *tiny, "--quiet")
    assert fedq("export", "mlflow", "runs")[:2] == (0, "mlflow.db\n")
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("fedq").experiment_id])
    assert run.data.params["strategy.name"] == "fedvote"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "accuracy")] == [1, 2]


# ------------------------------------------------------------------------------------------------- one client


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "fedavg"),
        ("--strategy", "terngrad"),
        ("--codec", "qsgd4", "--strategy", "fedavg", "--error-feedback"),
    ],
)
def test_one_client_is_as_in_the_run(fedq: Fedq, tiny: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Where it is the only one, the round's loss and bytes are its own: played before, or from the run's checkpoint."""
    one = (*tiny, "--clients", "1", *words)
    fedq("simulate", *one, "--quiet")
    (run,) = Path("runs").iterdir()
    second = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    for source in ([str(run)], [str(run / "run.toml")], one):
        status, out, err = fedq("simulate", *source, "--only-client", "0", "--round", "2")
        assert status == 0, err
        (loss,) = re.findall(r"train-loss=(\S+)", out)
        assert float(loss) == pytest.approx(second["train_loss"], abs=1e-12)
        if "terngrad" not in words:  # its scales went up first
            assert sum(map(int, re.findall(r"(\d+) bytes", out))) == second["up_bytes"]
    told = json.loads(fedq("simulate", str(run), "--only-client", "0", "--round", "2", "--json")[1])
    assert (told["client"], told["round"], told["train_loss"]) == (0, 2, float(loss))
    assert [(p["stype"], p["bytes"]) for p in told["payloads"].values()] == [
        (stype, int(n)) for stype, n in re.findall(r"(\S+)  (\d+) bytes", out)
    ]
    assert told["up_bytes"] == sum(p["bytes"] for p in told["payloads"].values())
    assert len(list(Path("runs").iterdir())) == 1


def test_one_client_that_fails_says_where(fedq: Fedq, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedq.clients.trainer import Trainer

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(Trainer, "_trained", fail)
    status, _, err = fedq("simulate", *tiny, "--only-client", "2")
    assert (status, "client 2 failed in round 1: OSError: disk on fire" in err) == (5, True)
    assert f"--> {__file__}:" in err
    assert "Traceback" in fedq("simulate", *tiny, "--only-client", "2", "--debug")[2]
    assert "--only-client 0 --round 1" in fedq("simulate", *tiny)[2]
    assert "the run has 2 rounds" in fedq("simulate", *tiny, "--only-client", "0", "--round", "3")[2]
    status, _, err = fedq("simulate", *tiny, "--only-client", "9")
    assert (status, "client 9 takes no part in round 1" in err) == (2, True)


# ------------------------------------------------------------------------------------------------- completion


def test_completion_knows_the_registries() -> None:
    """In a process of its own: other tests add names to registries."""
    script = """
from importlib import import_module
from fedq.cli import complete
from fedq.report.catalogue import KINDS
for kind, (file, registry, _) in complete.SOURCES.items():
    known = list(getattr(import_module("fedq." + file.split("/")[0]), registry))
    assert complete.names(kind)[: len(known)] == known, kind
assert list(complete.KINDS) == list(KINDS)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_completion_in_a_shell(tmp_path: Path) -> None:
    for words, expected in (
        ("fedq simulate --strategy fedv", ["fedvote", "fedvarp"]),
        ("fedq show qsgd", ["qsgd2", "qsgd4", "qsgd8"]),
        ("fedq simulate --engine ", ["local", "ray"]),
        ("fedq explain FQ30", ["FQ301", "FQ302", "FQ303", "FQ304", "FQ305"]),
    ):
        env = {
            **os.environ,
            "_FEDQ_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        script = "import sys; sys.argv = ['fedq']; from fedq.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert sorted(done.stdout.split()) == sorted(expected), done.stderr
