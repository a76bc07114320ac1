"""A real SuperLink and real SuperNodes on loopback, with TLS and node keys."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

import fedq
from fedq.config import make_config
from fedq.deploy import keys
from fedq.deploy.bundle import bundled, unbundled
from fedq.deploy.lines import environment
from fedq.kernels import active
from fedq.privacy.ledger import Ledger
from fedq.runs import open_run
from tests.deploy.bare_node import BareNode, connected
from tests.deploy.processes import Cluster, free_ports
from tests.deploy.test_sites import TEXTS, model, play, simulated
from tests.processes import begun, lines, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

MESSAGE = 2500  # bytes that a message may cost on the wire besides its payload
SMALL = {
    "client.local_steps": 5,
    "client.batch_size": 16,
    "seed": 3,
    "rounds": 2,
    "tolerate": 0.5,
    "model.hidden": [32],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), 3) as made:
        made.start_all()
        yield made
        made.fedq("deploy", "stop")
        for name in list(made.processes):
            made.processes.pop(name).wait(30)
        end = time.monotonic() + 60  # what SuperNodes started ends when it misses them
        while made.left() and time.monotonic() < end:
            time.sleep(0.5)
        assert made.left() == []


def write(folder: Path, settings: dict[str, Any]) -> Path:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        if "." in key:
            section, inner = key.split(".")
            nested.setdefault(section, {})[inner] = value
        elif key == "strategy":
            nested.setdefault("strategy", {})["name"] = value
        else:
            nested[key] = value
    (folder / "config.toml").write_text(tomli_w.dumps(nested))
    return folder / "config.toml"


DEPLOYED: dict[str, dict[str, Any]] = {
    "fedvote with reputation": {"strategy": "fedvote", "strategy.weighting": "reputation"},
    "fedavg behind qsgd4": {"strategy": "fedavg", "codec": "qsgd4"},
    "terngrad": {"strategy": "terngrad", "client.local_steps": 1},
}


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployed_as_simulated(cluster: Cluster, name: str) -> None:
    """The curve and the weights of a simulation, bit for bit; the ledger agrees with the wire."""
    settings = {**SMALL, **DEPLOYED[name]}
    done = cluster.fedq("deploy", "run", write(cluster.folder, settings), "--json")
    totals = json.loads(done.stdout)
    config = make_config({**settings, "clients": 3})
    here = simulated(config)
    found = lines(cluster.folder / totals["run_dir"])
    apart = ("seconds", "wire_up_bytes", "wire_down_bytes")
    there = [{k: v for k, v in line.items() if k not in apart} for line in found]
    assert there == [{k: v for k, v in r.metrics().items() if k not in apart} for r in here]
    assert totals["status"] == "done"
    assert totals["weights_sha256"] == model(config, here)
    messages = 3 * (2 if name == "terngrad" else 1)
    for line in found:
        assert 0 < line["wire_up_bytes"] - line["up_bytes"] < MESSAGE * messages
        assert 0 < line["wire_down_bytes"] - line["down_bytes"] < MESSAGE * messages
    about = json.loads((cluster.folder / totals["run_dir"] / "run.json").read_text())
    assert about["kernels"] == active.isa()
    assert {k: site["kernels"] for k, site in about["sites"].items()} == {f"site-{k}": active.isa() for k in range(3)}


@pytest.mark.parametrize(("number", "when"), [(signal.SIGINT, "Flower run "), (signal.SIGTERM, "round=")])
def test_a_run_that_is_left(cluster: Cluster, number: int, when: str) -> None:
    """Ctrl-C stops a Flower run also before its server process has begun, and SIGTERM as Ctrl-C does."""
    endless, name = write(cluster.folder, {**SMALL, "rounds": 100_000}), f"left-{number}"
    process = cluster.start(name, "deploy", "run", endless, "--out", name)
    log = cluster.folder / f"{name}.log"
    until(lambda: when in log.read_text(), process)
    process.send_signal(number)
    assert process.wait(120) == 130
    del cluster.processes[name]
    assert "Traceback" not in log.read_text()
    (path,) = (cluster.folder / name).iterdir()
    run = open_run(path)
    assert f"go on: fedq deploy run {name}/{run.path.name}" in log.read_text()
    assert run.status == "interrupted"
    (last, *_), played = run.latest(), len(run.records())
    assert last == played >= (when == "round=")  # nothing that was computed is computed again
    runs = json.loads(cluster.fedq("deploy", "status", "--json").stdout)["runs"]
    assert [run["status"] for run in runs if run["flower_run_id"] in log.read_text()] == ["finished:stopped"]


def test_what_runs_is_not_started_twice(cluster: Cluster) -> None:
    for name, words in (("the server", ["server"]), ("a client of site-1", ["client", "--dir", "deploy/site-1"])):
        done = cluster.fedq("deploy", *words, check=False)
        assert done.returncode == 4
        assert f"error[FQ207]: {name} runs already" in done.stderr


def test_doctor_and_an_unregistered_key(cluster: Cluster, tmp_path: Path) -> None:
    """All is well with a deployment that runs; a key that the server does not know is refused, and named."""
    for folder in ("deploy", "deploy/site-1"):
        checks = json.loads(cluster.fedq("doctor", "--deploy", folder, "--json").stdout)["checks"]
        assert [check for check in checks if not check["ok"]] == []
    stranger = tmp_path / "site-0"
    shutil.copytree(cluster.folder / "deploy" / "site-0", stranger, ignore=shutil.ignore_patterns("key*", "state"))
    keys.make_node(stranger, "stranger")
    done = cluster.fedq("doctor", "--deploy", stranger, check=False)
    assert done.returncode == 4
    assert "FAIL  keys        the server does not know the key of site-0" in done.stdout
    done = cluster.fedq("deploy", "client", "--dir", stranger, check=False)
    assert done.returncode == 4
    assert "error[FQ207]: the server does not know the key of site-0" in done.stderr
    ca = cluster.folder / "deploy" / "ca.crt"
    code = f"from pathlib import Path; from tests.deploy.bare_node import connected\n{REFUSED}"
    words = [sys.executable, "-c", code, f"localhost:{cluster.port}", str(ca), str(stranger / "key")]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment(tmp_path))
    assert "connected" not in refused.stdout
    assert "Failed to activate SuperNode" in refused.stdout + refused.stderr


REFUSED = """
import sys
with connected(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])): print("connected")
"""


def noise(_: RecordDict) -> RecordDict:
    return RecordDict({"bundle": ArrayRecord({"records": Array("uint8", (3,), "fedq.bundle", b"\xff\xff\xff")})})


def lies(message: RecordDict) -> RecordDict:
    """A reply of the right records with a payload of the wrong length."""
    arrays = ArrayRecord({"1.weight": Array("float32", (32, 64), "fedq.binary", b"\x01")})
    return bundled(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 5, "train-loss": 0.1})}))


HOSTILE: list[Callable[[RecordDict], RecordDict]] = [lies, noise]


def hostile(node: BareNode, partition: int, stop: threading.Event) -> None:
    """Greets like an honest site, and sends something malformed in every round."""
    sent = 0
    while not stop.is_set():
        try:
            message = node.receive()
            if message is None:
                time.sleep(0.3)
            elif message.metadata.message_type == "query.hello":
                told: Any = unbundled(message.content)["config"]
                answer = {"partition": partition, "examples": 9, "kernels": "none", "own_data": True}
                node.reply(message, RecordDict({"config": ConfigRecord({**answer, "fedq": told["fedq"], "flwr": "9"})}))
            else:
                node.reply(message, HOSTILE[sent % len(HOSTILE)](message.content))
                sent += 1
        except Exception as error:  # the server is gone for a while, or took no notice
            print(f"hostile: {type(error).__name__}: {error}")
            time.sleep(0.5)


def test_faults(tmp_path: Path) -> None:
    """A SuperNode and the SuperLink are killed, a hostile site lies in every round: the weights are those without."""
    settings = {**SMALL, "strategy": "fedvote", "rounds": 3}
    with Cluster(tmp_path, 4) as cluster:
        cluster.start_all(0, 1, 2)
        stop = threading.Event()
        deploy = cluster.folder / "deploy"
        with connected(f"localhost:{cluster.port}", deploy / "ca.crt", deploy / "site-3" / "key") as node:
            bad = threading.Thread(target=hostile, args=(node, 3, stop))
            bad.start()
            try:
                process = cluster.start("run", "deploy", "run", write(tmp_path, settings), "--timeout", "120", "--json")
                run = begun(tmp_path / "runs", 1, process)
                cluster.kill("site-1")  # its reply to the next message takes a new process
                cluster.start_site(1)
                until(lambda: len(lines(run)) >= 2, process)
                cluster.kill("server")
                cluster.start_server()
                assert process.wait(900) == 0
            finally:
                stop.set()
                bad.join()
        found, log = lines(run), (run / "log.txt").read_text()
    assert [line["round"] for line in found] == [1, 2, 3]
    assert [line["clients"] for line in found] == [3, 3, 3]
    assert [line["rejected"] for line in found] == [1, 1, 1]
    assert [line["failed"] for line in found] == [0, 0, 0]
    assert "client 3 was rejected in round 1" in log
    assert "asked again after a restart: site-1" in log
    assert json.loads((run / "run.json").read_text())["resumed_at"]
    config = make_config({**settings, "clients": 4})
    _, expected = play(config, tmp_path / "expected", hostile=_rejected)
    assert [line["accuracy"] for line in found] == [r.accuracy for r in expected]
    assert json.loads((run / "run.json").read_text())["weights_sha256"] == model(config, expected)


def test_simulated_by_flower(tmp_path: Path) -> None:
    """`flwr run` of the app in Flower's own simulation, with Ray: the same weights, by native kernels on both sides."""
    config, port = make_config({**SMALL, "strategy": "terngrad", "client.local_steps": 1, "clients": 3}), free_ports(1)
    home, app = tmp_path / "home", Path(fedq.__file__).parent / "deploy" / "app"
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    told = {"fedq-config": config.to_toml(), "fedq-out": str(tmp_path / "runs")}
    (tmp_path / "settings.toml").write_text(tomli_w.dumps(told))
    about = {"env": environment(home), "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    line = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([str(Path(sys.executable).parent / line[0]), *line[1:]], **about) as server:
        try:
            flags = ["-c", str(tmp_path / "settings.toml"), "--federation-config", "num-supernodes=3", "--stream"]
            words = [str(Path(sys.executable).parent / "flwr"), "run", str(app), "here", *flags]
            end = time.monotonic() + 120
            while (done := subprocess.run(words, **about, text=True, timeout=600)).returncode:
                assert time.monotonic() < end, done.stdout
                time.sleep(1)
        finally:
            server.terminate()
            server.communicate(timeout=60)
    (run,) = (tmp_path / "runs").iterdir()
    told = json.loads((run / "run.json").read_text())
    here = simulated(config)
    assert told["status"] == "done"
    assert told["weights_sha256"] == model(config, here)
    assert [line["accuracy"] for line in lines(run)] == [r.accuracy for r in here]
    assert told["kernels"] == active.isa()
    assert [site["kernels"] for site in told["sites"].values()] == [active.isa()] * 3


def images(folder: Path, side: int, *labels: str) -> Path:
    """Some grey images of every label, in the hub's layout."""
    from PIL import Image

    for label in labels:
        (folder / "train" / label).mkdir(parents=True)
        for k in range(4):
            Image.fromarray(np.full((side, side), 250 + k, np.uint8)).save(folder / "train" / label / f"{k}.png")
    return folder


def test_private_clients_with_data_of_their_own(texts: Path, tmp_path: Path) -> None:
    """Data that are not the run's are refused in words on both sides; a ledger outlives a client that is killed."""
    (site, *_), own = (texts / "all.csv").read_text().splitlines(keepends=True), list[Path]()
    for k in range(3):
        own.append(tmp_path / f"own-{k}")
        own[k].mkdir()
        rows = [row for row in (texts / "all.csv").read_text().splitlines(keepends=True) if row[4] == f"{k}"]
        (own[k] / "mine.csv").write_text("".join([site, *rows]))
    wrong = [own[0], images(tmp_path / "large", 12, "cat", "dog"), images(tmp_path / "cow", 8, "cat", "cow")]
    pets = {**SMALL, "strategy": "fedavg", "data.dir": str(images(tmp_path / "pets", 8, "cat", "dog"))}
    said = [
        "has no column of images",
        "the site's images are [1, 12, 12] up to 255, the run's [1, 8, 8] up to 255",
        "the site has label `cow`, and the run's are cat, dog",
    ]
    with Cluster(tmp_path, 3) as cluster:
        cluster.start_server()
        cluster.fedq("deploy", "register")
        for k in range(3):
            cluster.start_site(k, "--data-dir", wrong[k])
        done = cluster.fedq("deploy", "run", write(tmp_path, {**pets, "client.batch_size": 4}), check=False)
        assert done.returncode == 4
        assert "3 of 3 sites cannot take part" in done.stderr
        for k, words in enumerate(said):
            assert words in done.stderr
            assert words in (tmp_path / f"site-{k}.log").read_text()
        for k in (1, 2):
            cluster.stop_site(k)
            cluster.start_site(k, "--data-dir", own[k])
        made = {**TEXTS, "data.dir": str(texts), "rounds": 2, "seed": 3}
        words = ["--out", "private", "--timeout", "300", "--json"]
        process = cluster.start("run", "deploy", "run", write(tmp_path, made), *words)
        run = begun(tmp_path / "private", 1, process)
        cluster.kill("site-0")
        cluster.start_site(0)
        assert process.wait(900) == 0
        found, log = lines(run), (run / "log.txt").read_text()
        spent = [
            json.loads(next(cluster.folder.glob(f"deploy/site-{k}/state/*.ledger.json")).read_text()) for k in range(3)
        ]
    assert [(line["clients"], line["rejected"], line["failed"]) for line in found] == [(3, 0, 0)] * 2
    assert "asked again after a restart: site-0" in log
    steps = [ledger["steps"][0] // 3 for ledger in spent]
    assert steps[0] in (2, 3)  # what it was asked when it was killed left the site twice, or never
    assert steps[1:] == [2, 2]
    assert found[-1]["epsilon"] == max(Ledger.of(ledger).epsilon(1e-5) for ledger in spent)
    assert [line["down_bytes"] for line in found].count(found[0]["down_bytes"] // 3 * 4) == 1
    above = sum(line["wire_down_bytes"] - line["down_bytes"] for line in found)
    assert 0 < above < MESSAGE * 7


def _rejected(message: Any, _: Any) -> Any:
    from flwr.app import Message

    return Message(RecordDict({}), reply_to=message)
