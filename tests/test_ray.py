"""Rounds on Ray: the bits of one process for any workers and nodes, through deaths of workers and of the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.grids.cluster import Cluster
from fedq.grids.ray import RayGrid
from fedq.kernels import records
from fedq.rounds import RoundRecord
from fedq.runs import fingerprint
from fedq.simulation import begin, play, reopen
from tests.processes import FEDQ, begun, lines, start, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and files
]

RAY = str(Path(sys.executable).parent / "ray")
SMALL: dict[str, Any] = {
    "clients": 20, "rounds": 3, "client.batch_size": 16, "model.hidden": [16], "seed": 3, "data.partition": "iid",
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "votes": {"strategy": "fedvote", "client.local_steps": 3, "per_round": 12},
    "one by one": {"strategy": "fedavg", "codec": "qsgd4", "client.local_epochs": 1.0, "per_round": 12},
    "memory": {"strategy": "feddyn", "client.local_steps": 3, "evaluate.clients": True, "per_round": 12},
    "two exchanges": {"strategy": "terngrad"},
    "attack": {"strategy": "fedvote", "client.local_steps": 3, "attack": "crowd:3", "per_round": 12},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A private cluster that the runs of this module share."""
    made = Cluster(None, 3, most=3)
    made.open()
    yield made
    made.close()


Straight = Callable[[int], tuple[list[dict[str, Any]], str]]


def config(kind: str, **more: Any) -> Any:
    return make_config({**SMALL, **KINDS[kind], **more})


def played(simulation: Simulation, last: int = 3) -> list[RoundRecord]:
    try:
        return list(simulation.rounds(simulation.initial, 1, last))
    finally:
        simulation.close()


def same(a: list[RoundRecord], b: list[RoundRecord]) -> bool:
    lines = [[{k: v for k, v in r.metrics().items() if k != "seconds"} for r in records] for records in (a, b)]
    bits = [[{n: x.data for n, x in r.arrays.items()} for r in records] for records in (a, b)]
    return lines[0] == lines[1] and bits[0] == bits[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_one_process(cluster: Cluster, kind: str) -> None:
    here = played(build(config(kind, engine="local", workers=1)))
    for workers in (1, 2) if kind == "votes" else (2,):
        there = build(config(kind, engine="ray", workers=workers))
        assert isinstance(there.clients, RayGrid)
        assert str(there.clients) == f"{workers} process{'es' if workers > 1 else ''} of a private Ray cluster"
        assert same(played(there), here)


def test_a_run_goes_on_from_a_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    """What clients keep is part of it; a run begun on Ray goes on in this process, and the other way round."""
    straight = played(build(config("memory", engine="local")))
    for first, then in (("ray", "local"), ("local", "ray")):
        run, simulation = begin(config("memory", engine=first, rounds=2, workers=2), tmp_path)
        list(play(run, simulation))
        toml = run.path / "run.toml"
        toml.write_text(toml.read_text().replace(f'engine = "{first}"', f'engine = "{then}"'))
        run, simulation = reopen(run.path, rounds=3)
        assert same(list(play(run, simulation)), straight[2:])


def kill(cluster: Cluster, grid: RayGrid) -> None:
    """kill -9 one of the grid's workers."""
    process, _, _ = cluster.ray.get(grid._actors[-1].ready)
    os.kill(process, signal.SIGKILL)


def test_a_worker_killed_in_mid_round(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    slow = {"engine": "ray", "workers": 2, "client.local_steps": 100, "clients": 40, "per_round": 40}
    here = played(build(config("memory", **slow | {"engine": "local"})), 2)
    there = build(config("memory", **slow))
    assert isinstance(there.clients, RayGrid)
    send = there.clients.send_and_receive
    taken = 0

    def sent(*args: Any, **more: Any) -> Iterator[Any]:
        nonlocal taken
        for reply in send(*args, **more):
            taken += 1
            if taken in (2, 41):  # once in each round
                kill(cluster, there.clients)  # type: ignore[arg-type]
            yield reply

    there.grid._grid.send_and_receive = sent  # type: ignore[method-assign]
    assert same(played(there, 2), here)
    assert "its clients are played again" in caplog.text


def _deadly(_: Any) -> Any:
    from flwr.clientapp import ClientApp

    from fedq.grids import Crew

    app = ClientApp()
    app.train()(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    return Crew(app, 20)


def _stillborn(_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("make", "said"), [(_deadly, "died with 12 clients"), (_stillborn, "died as they started")])
def test_workers_that_always_die_end_the_run(cluster: Cluster, make: Any, said: str) -> None:
    simulation = build(config("votes", engine="ray", workers=2))
    assert isinstance(simulation.clients, RayGrid)
    simulation.clients._make = make
    with pytest.raises(FedqError, match=f"3 workers {said}") as error:
        played(simulation)
    assert error.value.exit_code == 4


def test_a_client_that_raises(cluster: Cluster) -> None:
    more = {"client.lr": 1e25, "model.norm": "none"}
    simulation = build(config("one by one", engine="ray", workers=2, **more))
    with pytest.raises(FedqError, match=r"client .* failed in round 1: .*(diverged|huge)"):
        played(simulation)


def test_more_workers_than_processors(cluster: Cluster) -> None:
    with pytest.raises(FedqError, match="4 workers want a processor each, and the Ray cluster has 3") as error:
        build(config("votes", workers=4)).open()
    assert error.value.where == "workers = 4"


# ----------------------------------------------------------------------------------------- other processes

SHORT = ["--clients", "8", "--local-steps", "100", "--seed", "5"]


def simulate(folder: Path, *flags: str, **env: str) -> dict[str, Any]:
    words = [*FEDQ, "simulate", *SHORT, "--rounds", "8", *flags, "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    totals: dict[str, Any] = json.loads(done.stdout)
    return totals


@pytest.fixture(scope="module")
def straight() -> Straight:
    """The lines of so many rounds in this process, and the fingerprint of the last model."""

    @cache
    def play(last: int) -> tuple[list[dict[str, Any]], str]:
        settings = {"clients": 8, "client.local_steps": 100, "seed": 5, "rounds": last}
        simulation = build(make_config(settings, engine="local", workers=1))
        found = played(simulation, last)
        plain = [{k: v for k, v in json.loads(json.dumps(r.metrics())).items() if k != "seconds"} for r in found]
        return plain, fingerprint({**simulation.drawn, **records.to_arrays(found[-1].arrays)})

    return play


def sha(run: Path) -> str:
    found: str = json.loads((run / "run.json").read_text())["weights_sha256"]
    return found


def started(folder: Path, round_: int) -> tuple["subprocess.Popen[str]", Path]:
    """A process that plays on Ray, once `round_` rounds are in its run directory; it would not end by itself."""
    words = ["simulate", *SHORT, "--rounds", "100000", "--workers", "2"]
    process = start(folder, *words, start_new_session=True)
    return process, begun(folder / "runs", round_, process)


def workers(of: int) -> list[int]:
    """The processes that play clients for the driver `of`."""
    import psutil

    return [p.pid for p in psutil.Process(of).children(recursive=True) if p.name().startswith("ray::Worker")]


def test_a_private_cluster_leaves_nothing_behind(straight: Straight, tmp_path: Path) -> None:
    home, temporary, plots = tmp_path / "home", tmp_path / "tmp", tmp_path / "plots"
    for folder in (home, temporary):
        folder.mkdir()
    own = {"HOME": str(home), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(plots)}
    run = tmp_path / simulate(tmp_path, "--workers", "2", **own)["run_dir"]
    assert (lines(run), sha(run)) == straight(8)
    assert [*home.iterdir(), *temporary.iterdir()] == []


def test_killed_workers_are_said_on_screen(straight: Straight, tmp_path: Path) -> None:
    process, run = started(tmp_path, 1)
    for worker in workers(process.pid):
        os.kill(worker, signal.SIGKILL)
    said = "its clients are played again"
    until(lambda: said in (run / "log.txt").read_text(), process)
    played_by_then = len(lines(run))
    until(lambda: len(lines(run)) > played_by_then, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert all(line.startswith("round=") for line in out.splitlines()), out
    assert said in err
    assert lines(run) == straight(len(lines(run)))[0]


def test_a_killed_driver(straight: Straight, tmp_path: Path) -> None:
    """Its workers end with it; the run goes on to the same bits, also without Ray."""
    process, run = started(tmp_path, 2)
    left = workers(process.pid)
    process.kill()
    process.communicate()
    last = len(lines(run)) + 2
    words = [*FEDQ, "resume", str(run), "--engine", "local", "--rounds", str(last)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (lines(run), sha(run)) == straight(last)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < end, "workers outlive their driver"
        time.sleep(0.1)


def test_an_interrupt_reaches_the_whole_group(straight: Straight, tmp_path: Path) -> None:
    """As Ctrl-C does on a terminal: the round is finished and saved."""
    process, run = started(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "finishing this round" in err
    assert "Traceback" not in err
    assert lines(run) == straight(len(lines(run)))[0]
    assert "died" not in err


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """A cluster of two nodes with a processor each, on this machine; its address."""
    with TemporaryDirectory(prefix="fedq-", ignore_cleanup_errors=True) as folder:
        base = [RAY, "start", "--num-cpus=1", "--disable-usage-stats", "--block"]
        head = [*base, "--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}"]
        nodes = [_node(head)]
        try:
            address = _address(Path(folder))
            nodes.append(_node([*base, f"--address={address}"]))
            yield address
        finally:
            for node in reversed(nodes):
                node.terminate()
                node.wait(60)


def _node(words: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _address(folder: Path) -> str:
    for _ in range(600):
        file = folder / "ray_current_cluster"
        if file.exists() and (text := file.read_text().strip()):
            return text
        time.sleep(0.1)
    raise AssertionError("Ray did not start")


def test_a_cluster_of_two_nodes(straight: Straight, tmp_path: Path, two_nodes: str) -> None:
    for _ in range(60):
        try:
            flags = ["--ray-address", two_nodes, "--workers", "2"]
            run = tmp_path / simulate(tmp_path, *flags)["run_dir"]
            break
        except AssertionError as error:  # the second node is still on its way
            assert "the Ray cluster has 1" in str(error)
    else:
        raise AssertionError("the second node did not come")
    assert (lines(run), sha(run)) == straight(8)


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    words = [*FEDQ, "simulate", *SHORT, "--ray-address", "127.0.0.1:1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert "error[FQ206]: no Ray cluster could be joined at `127.0.0.1:1`" in done.stderr
    assert "Traceback" not in done.stderr
    (about,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(about.read_text())["status"] == "failed"  # and can be resumed
