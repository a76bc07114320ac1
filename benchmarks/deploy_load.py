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
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedq._flower import _control
from fedq.deploy.bundle import bundled, unbundled
from fedq.deploy.files import init
from fedq.deploy.layout import Deployment
from fedq.deploy.nodes import public_pem
from tests.deploy.bare_node import BareNode, connected

FEDQ = [sys.executable, "-c", "from fedq.cli import main; main()"]


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


def serve(node: BareNode, partition: int, stop: threading.Event, failures: list[str]) -> None:
    """Answer until told to stop, looking every three seconds as a SuperNode does."""
    stop.wait(3 * partition % 3)
    while not stop.is_set():
        try:
            message = node.receive()
            if message is None:
                stop.wait(3)
            else:
                node.reply(message, answer(message, partition))
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            stop.wait(3)


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to the server and counts them as TCP carries them: TLS, HTTP, polling and all."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self.port = port
        super().__init__(("127.0.0.1", 0), Passing)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Passing(socketserver.BaseRequestHandler):
    """One connection of a node."""

    server: Relay

    def handle(self) -> None:
        """Both ways until either side closes."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            back = threading.Thread(target=self._pass, args=(there, self.request, "down"), daemon=True)
            back.start()
            self._pass(self.request, there, "up")
            back.join()

    def _pass(self, source: socket.socket, to: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65536):
                setattr(self.server, way, getattr(self.server, way) + len(data))
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass


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


def measure(nodes: int, hidden: int, rounds: int, port: int) -> dict[str, Any]:
    """One load: the numbers of its last round but the first."""
    folder = Path(tempfile.mkdtemp(prefix="fedq-load-"))
    of = init(folder / "deploy", "localhost", nodes, port=port)
    server = subprocess.Popen([*FEDQ, "deploy", "server", "--dir", str(of.folder), "--bind", "127.0.0.1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    stop, failures = threading.Event(), list[str]()
    try:
        for _ in range(100):
            try:
                register(of)
                break
            except Exception:
                time.sleep(1)
        (folder / "load.toml").write_text(
            f'rounds = {rounds}\nstrategy.name = "fedvote"\nmodel.hidden = [{hidden}]\n'
            'data.partition = "iid"\nevaluate.every = 1000\ntolerate = 1.0\n'
        )
        with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
            relay = Relay(port)
            address = f"localhost:{relay.server_address[1]}"
            connect = lambda k: connected(address, of.folder / "ca.crt", of.site(f"site-{k}") / "key")  # noqa: E731
            open_ = [stack.enter_context(node) for node in pool.map(connect, range(nodes))]
            for k, node in enumerate(open_):
                threading.Thread(target=serve, args=(node, k, stop, failures), daemon=True).start()
            words = ["deploy", "run", str(folder / "load.toml"), "--dir", str(of.folder), "--out", str(folder / "runs")]
            time.sleep(10)
            idle, before = (relay.up, relay.down), cpu(server.pid)
            time.sleep(15)
            idle = (relay.up - idle[0], relay.down - idle[1])
            start, begun = (relay.up, relay.down), time.monotonic()
            done = subprocess.run([*FEDQ, *words, "--json", "--quiet", "--timeout", "120"],
                                  capture_output=True, text=True, check=False)  # fmt: skip
            took = time.monotonic() - begun
            raw = (relay.up - start[0] - idle[0] * took / 15, relay.down - start[1] - idle[1] * took / 15)
            used, peak = cpu(server.pid) - before, memory(server.pid)
            stop.set()
        if done.returncode:
            return {"nodes": nodes, "broke": done.stderr.splitlines()[0], "failures": failures[:3]}
        run = Path(json.loads(done.stdout)["run_dir"])
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seconds = sorted(line["seconds"] for line in found)[len(found) // 2]
        return {
            "nodes": nodes,
            "s_per_round": round(seconds, 1),
            "messages_per_s": round(2 * nodes / seconds, 1),
            "superlink_cpu_ms_per_message": round(1000 * used / (2 * nodes * (rounds + 1)), 1),
            "superlink_peak_mb": round(peak),
            "lost": sum(line["failed"] + line["rejected"] for line in found),
            "wire_up_over_payload": round(sum(m["wire_up_bytes"] - m["up_bytes"] for m in found) / nodes / rounds),
            "wire_down_over_payload": round(
                sum(m["wire_down_bytes"] - m["down_bytes"] for m in found) / nodes / rounds
            ),
            "tcp_up_over_payload": round((raw[0] - sum(m["up_bytes"] for m in found)) / nodes / (rounds + 1)),
            "tcp_down_over_payload": round((raw[1] - sum(m["down_bytes"] for m in found)) / nodes / (rounds + 1)),
            "idle_bytes_per_s_up": round(idle[0] / nodes / 15),
            "idle_bytes_per_s_down": round(idle[1] / nodes / 15),
            "failures": failures[:3],
        }
    finally:
        stop.set()
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # it waits for connections that nodes hold open
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print one JSON line a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18777)
    given = parser.parse_args()
    for k, nodes in enumerate(given.nodes):
        print(json.dumps(measure(nodes, given.hidden, given.rounds, given.port + k)), flush=True)


if __name__ == "__main__":
    from fedq._flower import simulated_run

    simulated_run()
    main()
