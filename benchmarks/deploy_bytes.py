"""What a deployed message costs at the TCP socket, and what those bytes are.

    PYTHONPATH=. python benchmarks/deploy_bytes.py

A real SuperLink, real SuperNodes, TLS and node keys on loopback; FedVote on digits. Nodes reach the server through
two relays: one counts TCP, one ends TLS and counts requests by their path. Prints a table, each figure in bytes for one
exchange (a message to a site and its reply); TLS is what TCP carried beyond HTTP.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.relay import Reading, Relay
from fedq.deploy.layout import Site
from tests.deploy.processes import Cluster, lines


def main() -> None:
    """Play a run and print the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedq-bytes-") as place, Cluster(Path(place), given.sites) as cluster:
        cluster.start_server()
        cluster.fedq("deploy", "register")
        inner = Reading(cluster.port, cluster.folder / "deploy")
        outer = Relay(inner.port)
        for k in range(given.sites):
            replace(Site.read(cluster.folder / "deploy" / f"site-{k}"), port=outer.port).write()
            cluster.start_site(k)
        (cluster.folder / "run.toml").write_text(f'rounds = {given.rounds}\nstrategy.name = "fedvote"\n')
        done = cluster.fedq("deploy", "run", "run.toml", "--json")
        found = lines(cluster.folder / json.loads(done.stdout)["run_dir"])
        cluster.fedq("deploy", "stop")
    exchanges = given.sites * (given.rounds + 1)  # the greeting is one
    show(inner, outer, exchanges, sum(m["up_bytes"] for m in found), sum(m["down_bytes"] for m in found))
    above = [sum(m[f"wire_{w}_bytes"] - m[f"{w}_bytes"] for m in found) / given.sites / given.rounds for w in WAYS]
    print(f"\nabove the payload, as the SuperLink counts: {above[0]:.0f} up, {above[1]:.0f} down")


WAYS = ("up", "down")


def show(inner: Reading, outer: Relay, exchanges: int, *payload: int) -> None:
    """Print what every kind of request took, and the rest."""
    print(f"{'':28}{'requests':>9}{'up: head':>10}{'body':>8}{'down: head':>12}{'body':>8}")
    columns = ("requests", "up head", "up body", "down head", "down body")
    for path in sorted({path for path, _ in inner.seen}):
        values = [inner.seen[path, column] / exchanges for column in columns]
        print(f"{path:28}{values[0]:9.1f}{values[1]:10.0f}{values[2]:8.0f}{values[3]:12.0f}{values[4]:8.0f}")
    http = [sum(n for (_, what), n in inner.seen.items() if what.startswith(way)) for way in WAYS]
    tls = [(tcp - inside) / exchanges for tcp, inside in zip((outer.up, outer.down), http, strict=True)]
    print(f"TLS, in {outer.connections / exchanges:.1f} handshakes: {tls[0]:.0f} up, {tls[1]:.0f} down")
    above = [(tcp - own) / exchanges for tcp, own in zip((outer.up, outer.down), payload, strict=True)]
    print(f"TCP above the payload: {above[0]:.0f} up, {above[1]:.0f} down")


if __name__ == "__main__":
    sys.exit(main())
