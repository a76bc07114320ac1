"""Many nodes and one server: messages a second, memory and time a round, and what breaks first.

    PYTHONPATH=. python benchmarks/deploy_load.py --nodes 10 50 200 --hidden 128

Server, round loop and TLS are real; the nodes are threads of one process that answer at once with random votes of the
right shape, so what is timed is Flower's SuperLink and fedq's server, not training. On loopback. `wire_*` is what the
SuperLink counts, `tcp_*` what a relay before it counts (TLS, HTTP and all; polling at the rate of an idle server taken
off; the greeting is a message too).
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from benchmarks.relay import Relay
from fedq._flower import _control
from fedq.deploy.bundle import bundled, unbundled
from fedq.deploy.files import init
from fedq.deploy.layout import Deployment
from fedq.deploy.nodes import public_pem
from tests.deploy.bare_node import BareNode, connected

FEDQ = [sys.executable, "-c", "from fedq.cli import main; main()"]
IDLE = 15.0  # seconds for which polling is watched


def register(of: Deployment) -> None:
    """All keys, by the call that `flwr supernode register` makes."""
    from flwr.proto.control_pb2 import RegisterNodeRequest

    with _control(of.address, (of.folder / "ca.crt").read_bytes()) as client:
        for site in of.sites:
            client.RegisterNode(RegisterNodeRequest(public_key=public_pem(of.site(site) / "key.pub"), name=site))


def answer(message: Message, partition: int) -> RecordDict:
    """Random votes, in the shape of the model that came."""
    content = unbundled(message.content)
    if message.metadata.message_type == "query.hello":
        told: Any = content["config"]
        return RecordDict({"config": ConfigRecord({"partition": partition, "examples": 10, "kernels": "none",
                                                   "fedq": told["fedq"], "flwr": "", "own_data": True})})  # fmt: skip
    model: Any = content["arrays"]
    votes = {
        n: Array("float32", a.shape, "fedq.binary", secrets.token_bytes(-(-len(a.data) // 32)))
        for n, a in model.items()
    }
    metrics = MetricRecord({"num-examples": 10, "train-loss": 1.0})
    return bundled(RecordDict({"arrays": ArrayRecord(votes), "metrics": metrics}))


def serve(node: BareNode, partition: int, poll: float, stop: threading.Event, failures: list[str]) -> None:
    """Answer until told to stop, looking every `poll` seconds: a SuperNode does every three."""
    stop.wait(poll * (0.618 * partition % 1))
    while not stop.is_set():
        try:
            message = node.receive()
            if message is None:
                stop.wait(poll)
            else:
                node.reply(message, answer(message, partition))
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            stop.wait(poll)


def memory(process: int) -> float:
    """The most memory that a process has held so far, in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu(process: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def superlink(of: Deployment) -> Iterator[int]:
    """A server of the deployment with all sites registered: its process id."""
    words = [*FEDQ, "deploy", "server", "--dir", str(of.folder), "--bind", "127.0.0.1"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(100):
            try:
                register(of)
                break
            except Exception:
                time.sleep(1)
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # it waits for connections that nodes hold open
            server.kill()
            server.wait()


@contextmanager
def nodes_at_work(of: Deployment, relay: Relay, poll: float) -> Iterator[list[str]]:
    """Every site of the deployment, connected through the relay and answering: what went wrong at them."""
    stop, failures, ca = threading.Event(), list[str](), of.folder / "ca.crt"
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        keys = [of.site(site) / "key" for site in of.sites]
        made = pool.map(lambda key: connected(f"localhost:{relay.port}", ca, key), keys)
        for k, node in enumerate([stack.enter_context(one) for one in made]):
            threading.Thread(target=serve, args=(node, k, poll, stop, failures), daemon=True).start()
        try:
            yield failures
        finally:
            stop.set()


def idle(relay: Relay, nodes: int) -> tuple[float, float]:
    """Bytes a second and node while nothing is asked, up and down."""
    time.sleep(10)
    before = (relay.up, relay.down)
    time.sleep(IDLE)
    return (relay.up - before[0]) / nodes / IDLE, (relay.down - before[1]) / nodes / IDLE


def play(of: Deployment, hidden: int, rounds: int) -> tuple[list[dict[str, Any]], str]:
    """The lines of a run of FedVote, and what broke it if it did."""
    (of.folder / "load.toml").write_text(
        f'rounds = {rounds}\nstrategy.name = "fedvote"\nmodel.hidden = [{hidden}]\n'
        'data.partition = "iid"\nevaluate.every = 1000\ntolerate = 1.0\n'
    )
    words = ["deploy", "run", str(of.folder / "load.toml"), "--dir", str(of.folder), "--out", str(of.folder / "runs")]
    line = [*FEDQ, *words, "--json", "--quiet", "--timeout", "120"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        return [], done.stderr.splitlines()[0]
    run = Path(json.loads(done.stdout)["run_dir"])
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()], ""


def measure(nodes: int, hidden: int, rounds: int, poll: float, port: int) -> dict[str, Any]:
    """One load: a round's median seconds, and what an exchange of a message and its reply cost."""
    with tempfile.TemporaryDirectory(prefix="fedq-load-") as folder:
        of = init(Path(folder) / "deploy", "localhost", nodes, port=port)
        with superlink(of) as server:
            relay = Relay(port)
            with nodes_at_work(of, relay, poll) as failures:
                at_rest = idle(relay, nodes)
                start, begun, used = (relay.up, relay.down), time.monotonic(), cpu(server)
                found, broke = play(of, hidden, rounds)
                took, used = time.monotonic() - begun, cpu(server) - used
                tcp = [now - before for now, before in zip((relay.up, relay.down), start, strict=True)]
            if broke:
                return {"nodes": nodes, "broke": broke, "failures": failures[:3]}
            return {**_figures(nodes, found, used), "superlink_peak_mb": round(memory(server)),
                    **_bytes(nodes, found, tcp, at_rest, took), "failures": failures[:3]}  # fmt: skip


def _figures(nodes: int, found: list[dict[str, Any]], used: float) -> dict[str, Any]:
    seconds = sorted(line["seconds"] for line in found)[len(found) // 2]
    return {
        "nodes": nodes,
        "s_per_round": round(seconds, 1),
        "messages_per_s": round(2 * nodes / seconds, 1),
        "superlink_cpu_ms_per_message": round(1000 * used / (2 * nodes * (len(found) + 1)), 1),
        "lost": sum(line["failed"] + line["rejected"] for line in found),
    }


def _bytes(
    nodes: int, found: list[dict[str, Any]], tcp: list[int], at_rest: tuple[float, float], took: float
) -> dict[str, int]:
    """Above the payload, for one exchange, as SuperLink and socket count; idle polling is taken off the latter."""
    made = {}
    for way, passed, resting in zip(("up", "down"), tcp, at_rest, strict=True):
        payload, wire = (sum(m[f"{kind}{way}_bytes"] for m in found) for kind in ("", "wire_"))
        made[f"wire_{way}_over_payload"] = round((wire - payload) / nodes / len(found))
        made[f"tcp_{way}_over_payload"] = round((passed - resting * nodes * took - payload) / nodes / (len(found) + 1))
        made[f"idle_bytes_per_s_{way}"] = round(resting)
    return made


def main() -> None:
    """Print one JSON line a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--poll", type=float, default=3.0, help="seconds between a node's looks for messages")
    parser.add_argument("--port", type=int, default=18777)
    given = parser.parse_args()
    for k, nodes in enumerate(given.nodes):
        print(json.dumps(measure(nodes, given.hidden, given.rounds, given.poll, given.port + k)), flush=True)


if __name__ == "__main__":
    from fedq._flower import simulated_run

    simulated_run()
    main()
