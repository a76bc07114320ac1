"""`fedq sweep`: every combination once, each a plain command, past failures and interruptions."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedq.errors import FedqError
from fedq.runs import open_run
from tests.processes import lines, start, until

Fedq = Callable[..., tuple[int, str, str]]
GRID = ("--grid", "strategy=fedvote,fedavg", "--grid", "seed=0..1")


def fixed(tiny: tuple[str, ...]) -> list[str]:
    """The tiny run's flags as `--set`."""
    keys = {"--clients": "clients", "--rounds": "rounds"}
    keys |= {"--local-steps": "client.local_steps", "--batch-size": "client.batch_size"}
    pairs = zip(tiny[::2], tiny[1::2], strict=True)
    return [word for flag, value in pairs for word in ("--set", f"{keys[flag]}={value}" if flag in keys else value)]


def test_every_command_is_the_run_it_stands_for(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """A dry run prints commands that can be pasted; their configs are those of the grid, in order."""
    status, out, err = fedq("sweep", *fixed(tiny), *GRID, "--grid", "partition=iid,dirichlet:0.3", "--dry-run")
    assert (status, "8 runs, 0 done already, 8 to do" in err) == (0, True)
    found = []
    for line in out.splitlines():
        _, command, *words = shlex.split(line)
        toml = fedq(command, *words, "--print-config")[1]
        found.append([name in toml for name in ('"fedvote"', "seed = 1", '"iid"')])
    assert found == [[s, seed, p] for s in (True, False) for seed in (False, True) for p in (True, False)]
    assert not Path("runs").exists()


def test_what_is_done_is_not_run_again(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """Known by the hash of the config, wherever the settings came from."""
    fedq("simulate", *tiny, "--quiet")
    fedq("simulate", *tiny, "--strategy", "fedavg", "--seed", "1", "--quiet")
    _, out, err = fedq("sweep", *fixed(tiny), *GRID, "--dry-run")
    assert "4 runs, 2 done already, 2 to do" in err
    assert out.count("\n") == 2
    assert "strategy.name=fedavg --set seed=1" not in out


def test_what_the_data_decide_does_not_hide_a_run(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """A run whose number of clients came from its data is found by what was asked for."""
    fedq("simulate", *tiny, "--quiet")
    (file,) = Path("runs").glob("*/run.json")
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"asked_hash": about["config_hash"], "config_hash": "0" * 64}))
    assert "1 run, 1 done already" in fedq("sweep", *fixed(tiny), "--dry-run")[2]


def test_combinations_of_one_config_are_one_run(fedq: Fedq) -> None:
    assert "1 run, " in fedq("sweep", "--grid", "seed=0,0", "--dry-run")[2]


def test_a_config_file_is_the_base(fedq: Fedq) -> None:
    Path("base.toml").write_text('rounds = 3\n[strategy]\nname = "fedavg"\n')
    _, out, _ = fedq("sweep", "base.toml", "--grid", "codec=qsgd4,qsgd8", "--dry-run", "--out", "elsewhere")
    assert out == "".join(f"fedq simulate base.toml --set codec=qsgd{b} --out elsewhere\n" for b in (4, 8))


@pytest.mark.parametrize(
    ("grid", "said"),
    [("seed", "KEY=A,B,C"), ("seed=", "KEY=A,B,C"), ("codec=binary,binry", "--grid codec=binry"), ("sed=1", "`sed`")],
)
def test_a_wrong_grid_starts_nothing(fedq: Fedq, grid: str, said: str) -> None:
    status, out, err = fedq("sweep", "--grid", grid)
    assert (status, out, said in err) == (2, "", True)
    assert not Path("runs").exists()


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "fedq", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_it_goes_on_past_a_failure_and_does_what_is_missing(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    """Runs two at a time; one of them diverges; the same command then finds all but that one done."""
    grid = (
        "--grid",
        "client.lr=0.05,1e30",
        "--grid",
        "seed=0..1",
        "--set",
        "strategy=fedavg",
        "--set",
        "model.norm=none",
    )
    done = run(tmp_path, "sweep", *fixed(tiny), *grid, "-j", "2", "--json")
    assert done.returncode == 5, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    assert [row["state"] for row in rows] == ["done", "done", "failed", "failed"]
    assert all("FQ30" in row["error"] for row in rows[2:])
    assert [open_run(tmp_path / row["run_dir"]).status for row in rows[:2]] == ["done", "done"]
    again = run(tmp_path, "sweep", *fixed(tiny), *grid, "--dry-run")
    assert "4 runs, 2 done already, 2 to do" in again.stderr
    assert all(line.startswith("fedq resume ") for line in again.stdout.splitlines())


@pytest.mark.slow
def test_stopped_and_gone_on_with_it_ends_in_the_same_bits(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    """Each run finishes its round, and the same command goes on with it; the signals come long before the last."""
    words = [*fixed(tiny), "--set", "rounds=100000", "--grid", "seed=0..1", "-j", "2", "--json"]
    for _ in range(2):
        process = start(tmp_path, "sweep", *words)
        played = {path: len(lines(path)) for path in tmp_path.glob("runs/*")}

        def further(played: dict[Path, int] = played) -> bool:
            runs = list(tmp_path.glob("runs/*"))
            return len(runs) == 2 and all(len(lines(path)) > played.get(path, 0) for path in runs)

        until(further, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert [row["state"] for row in json.loads(out)["runs"]] == ["interrupted"] * 2
    (second,) = tmp_path.glob("runs/fedvote-digits-s1-*")
    assert len(open_run(second).about["resumed_at"]) == 1
    last = str(len(lines(second)) + 2)
    resumed = run(tmp_path, "resume", str(second), "--rounds", last, "--json")
    straight = run(tmp_path, "simulate", *tiny, "--rounds", last, "--seed", "1", "--out", "x", "--json")
    assert json.loads(resumed.stdout)["weights_sha256"] == json.loads(straight.stdout)["weights_sha256"]


def test_malformed_grids_are_told_by_name() -> None:
    from fedq.sweep import parse_grid

    with pytest.raises(FedqError, match="KEY=A,B,C"):
        parse_grid(["a b=1"])
    with pytest.raises(FedqError, match="two grids of `seed`"):
        parse_grid(["seed=0..1", "seed=2..3"])
    with pytest.raises(FedqError, match="`1-3` is no number") as found:
        parse_grid(["seed=1-3"])
    assert found.value.hint == "a span is seed=1..3"


def test_a_run_that_stopped_at_a_goal_is_no_point(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--until", "up=1B", "--quiet")
    assert "1 run, 0 done already, 1 to do" in fedq("sweep", *fixed(tiny), "--grid", "seed=0", "--dry-run")[2]


def test_what_changes_no_run_is_no_axis(fedq: Fedq) -> None:
    status, _, err = fedq("sweep", "--grid", "data.dir=a,b")
    assert (status, "`data.dir` makes no other run" in err) == (2, True)


def test_a_done_run_stays_done_without_its_checkpoints(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    for checkpoint in Path("runs").glob("*/checkpoints/*"):
        checkpoint.unlink()
    assert "1 run, 1 done already" in fedq("sweep", *fixed(tiny), "--grid", "seed=0", "--dry-run")[2]


def test_the_same_name_from_another_folder_is_another_run(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    (toml,) = Path("runs").glob("*/run.toml")
    toml.write_text(toml.read_text().replace('dir = ""', 'dir = "/elsewhere"'))
    assert "1 run, 0 done already" in fedq("sweep", *fixed(tiny), "--grid", "seed=0", "--dry-run")[2]
