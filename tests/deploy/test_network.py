"""Sites with addresses of their own: network namespaces joined by a bridge, one link cut in the middle of a run."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedq.config import make_config
from tests.deploy.processes import Cluster
from tests.deploy.test_deployed import SMALL, write
from tests.deploy.test_sites import model, simulated
from tests.processes import begun, lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TAG = f"fq{os.getpid() % 10_000}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def spaces() -> Iterator[list[str]]:
    """A namespace for the server (10.77.0.1) and one for each of three sites (10.77.0.2 ...), on one bridge."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names, bridge = [f"{TAG}n{k}" for k in range(4)], f"{TAG}b"
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for k, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"{TAG}v{k}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{TAG}v{k}", "master", bridge, "up")
            ip("-n", name, "addr", "add", f"10.77.0.{k + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        _remove(names, bridge)
        pytest.skip(f"this machine allows no network namespaces: {error.stderr}")
    yield names
    _remove(names, bridge)


def _remove(names: list[str], bridge: str) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def test_a_link_that_is_cut(spaces: list[str], tmp_path: Path) -> None:
    """One site is unreachable for ten seconds in mid-round; nothing is lost, and the weights are a simulation's."""
    settings = {**SMALL, "strategy": "fedvote", "rounds": 3}
    with Cluster(tmp_path, 3, host="10.77.0.1", spaces=spaces) as cluster:
        cluster.start_all()
        process = cluster.start("run", "deploy", "run", write(tmp_path, settings), "--timeout", "300", "--json")
        run = begun(tmp_path / "runs", 1, process)
        time.sleep(3)
        ip("link", "set", f"{TAG}v2", "down")
        time.sleep(10)
        ip("link", "set", f"{TAG}v2", "up")
        assert process.wait(900) == 0
        found = lines(run)
    config = make_config({**settings, "clients": 3})
    here = simulated(config)
    assert [line["clients"] for line in found] == [3, 3, 3]
    assert [line["accuracy"] for line in found] == [r.accuracy for r in here]
    assert json.loads((run / "run.json").read_text())["weights_sha256"] == model(config, here)
