"""Every command's help: fits 80 columns, and ends with an example that works as it stands."""

import json
import shlex
from collections.abc import Callable, Iterator
from glob import glob
from itertools import pairwise
from pathlib import Path

import click
import pytest
import typer

from fedq.cli.app import app
from fedq.config import load_config

Fedq = Callable[..., tuple[int, str, str]]
LONG = ("demo", "simulate", "sweep", "bench")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


GROUP = typer.main.get_command(app)
assert isinstance(GROUP, click.Group)
COMMANDS = list(commands(GROUP))


def example(fedq: Fedq, command: tuple[str, ...]) -> list[str]:
    """The words after `fedq` of the one example in a command's help."""
    status, out, _ = fedq(*command, "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    assert text.count("Example: fedq ") == 1
    line, after = next((a, b) for a, b in pairwise(out.splitlines()) if "Example: fedq " in a)
    assert not after.strip(" │")  # it was not broken
    words = shlex.split(line.strip(" │").removeprefix("Example: fedq "))
    assert tuple(words[: len(command)]) == command
    return words


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_and_has_an_example(fedq: Fedq, command: tuple[str, ...]) -> None:
    flags = [word.split("=")[0] for word in example(fedq, command) if word.startswith("--")]
    told = fedq(*command, "--help")[1]
    assert all(flag in told for flag in flags)


def ran(fedq: Fedq, words: list[str]) -> None:
    """Patterns are what a shell would make of them."""
    given = [match for word in words for match in (sorted(glob(word)) or [word])]
    status, _, err = fedq(*given)
    assert status == 0, err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] not in (*LONG, "deploy")], ids=" ".join)
def test_the_example_runs(fedq: Fedq, tiny: tuple[str, ...], command: tuple[str, ...]) -> None:
    """Among runs of the names that examples use; those of deployments run in their own tests."""
    for strategy in ("fedvote", "fedavg"):
        fedq("simulate", *tiny, "--strategy", strategy, "--out", "made", "--quiet")
        (made,) = Path("made").glob(f"{strategy}-*")
        Path("runs").mkdir(exist_ok=True)
        made.rename(f"runs/{strategy}-digits-s0-b5d13f")
    if command == ("resume",):  # as if it had been stopped
        toml = Path("runs/fedvote-digits-s0-b5d13f/run.toml")
        toml.write_text(toml.read_text().replace("rounds = 2", "rounds = 3"))
        about = toml.with_name("run.json")
        about.write_text(json.dumps(json.loads(about.read_text()) | {"config_hash": load_config(toml).hash}))
    ran(fedq, example(fedq, command))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] in LONG], ids=" ".join)
def test_the_long_example_runs(fedq: Fedq, command: tuple[str, ...]) -> None:
    from fedq.kernels import active

    if command == ("bench", "kernels") and active.isa() == "numpy":
        pytest.skip("no native kernels")
    ran(fedq, example(fedq, command))
