"""`fedq bench simulation` with pfl-research and FedJAX among the contenders, each in an environment of its own.

    python benchmarks/simulation.py --peers DIR [--repeats 3] [--work mlp]... [--contender NAME]... [--json]

The first run makes DIR/pfl and DIR/fedjax with pip (1.1 GB, of which most is torch's CPU build, and 0.7 GB); later ones
find them. pfl gets the very torch that fedq has. FedJAX calls `jax.tree_map`, which later JAX lacks; this one is there
for Python up to 3.12. All contenders take turns.
"""

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from fedq.bench.simulation import OWN, own, rows
from fedq.bench.work import JOBS
from fedq.cli.bench import shown
from fedq.errors import FedqError

PACKAGES = {
    "pfl": ("pfl==0.6.0", f"torch=={version('torch')}"),
    "fedjax": ("fedjax==0.0.17", "jax==0.4.30", "jaxlib==0.4.30", "dm-haiku==0.0.12", "optax==0.2.3"),
}
PEERS = {  # contender: environment, its program in peers/ and flags
    "pfl": ("pfl", ["pfl_contender.py"]),
    "pfl 2 processes": ("pfl", ["pfl_contender.py", "--processes", "2"]),
    "fedjax": ("fedjax", ["fedjax_contender.py"]),
}


def environment(folder: Path, *packages: str) -> Path:
    """The Python of an environment with these packages, made if it is not there. FedqError FQ206 if it cannot be."""
    python, made = folder / "bin" / "python", folder / "made-with.txt"
    wanted = "\n".join(packages)
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        for command in (sys.executable, "-m", "venv", folder), (python, "-m", "pip", "install", "-q", *packages):
            line = [str(word) for word in command]
            print(" ".join(line), file=sys.stderr)
            if subprocess.run(line, stdout=sys.stderr, check=False).returncode:
                raise FedqError("FQ206", f"cannot make the environment of {folder.name}", where=str(folder))
        made.write_text(wanted, encoding="utf-8")
    return python


def commands(names: list[str], peers: Path) -> dict[str, list[str]]:
    """The command lines of these contenders."""
    programs, found = Path(__file__).parent / "peers", own([name for name in names if name in OWN])
    for name in names:
        if name in PEERS:
            place, (program, *flags) = PEERS[name]
            python = environment(peers.absolute() / place, *PACKAGES[place])
            found[name] = [str(python), str(programs / program), *flags]
    return found


def main() -> None:
    """Measure and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender")
    parser.add_argument("--work", action="append", choices=list(JOBS), help="default: all")
    parser.add_argument("--contender", action="append", choices=[*OWN, *PEERS], help="default: all")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    given = parser.parse_args()
    if given.repeats < 1:
        parser.error("--repeats must be at least 1")
    found = rows(given.work or list(JOBS), commands(given.contender or [*OWN, *PEERS], given.peers), given.repeats)
    print(shown(list(found), json=given.json))


if __name__ == "__main__":
    try:
        main()
    except FedqError as error:
        sys.exit(str(error))
