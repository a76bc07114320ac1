"""`fedq simulate`."""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

SECTION = {
    "strategy": "strategy.name",
    "codec": "codec",
    "error_feedback": "error_feedback",
    "data": "data.name",
    "data_dir": "data.dir",
    "text_column": "data.text_column",
    "label_column": "data.label_column",
    "test_share": "data.holdout",
    "model": "model.name",
    "clients": "clients",
    "per_round": "per_round",
    "participation": "participation.name",
    "rounds": "rounds",
    "local_steps": "client.local_steps",
    "batch_size": "client.batch_size",
    "lr": "client.lr",
    "epsilon": "client.epsilon",
    "delta": "client.delta",
    "partition": "data.partition",
    "attack": "attack",
    "seed": "seed",
    "tolerate": "tolerate",
    "engine": "engine",
    "workers": "workers",
    "ray_address": "ray_address",
}


def simulate(
    config: Annotated[Path | None, Argument(show_default=False)] = None,
    strategy: Annotated[
        str | None, Option(help="fedvote (default), fedavg, fedpaq, signsgd ...: fedq show strategies")
    ] = None,
    codec: Annotated[str | None, Option(help="How updates travel: fedq show codecs.")] = None,
    error_feedback: Annotated[bool | None, Option("--error-feedback", help="Send next what packing lost.")] = None,
    data: Annotated[
        str | None, Option(help="digits (default), mnist, fashion_mnist, cifar10, or owner/name of the hub.")
    ] = None,
    data_dir: Annotated[Path | None, Option(help="Read the data from this folder, in the hub's layout.")] = None,
    text_column: Annotated[str | None, Option(help="Data are texts: the column they stand in.")] = None,
    label_column: Annotated[str | None, Option(help="The column of their labels.")] = None,
    test_share: Annotated[float | None, Option(help="Share held out for testing, without a test split.")] = None,
    model: Annotated[str | None, Option(help="mlp (default), lenet5, fedvote_lenet5 ...: fedq show models")] = None,
    clients: Annotated[int | None, Option(help="Partitions of the data, each one client; default 20.")] = None,
    per_round: Annotated[int | None, Option(help="Clients that take part in a round; default all.")] = None,
    participation: Annotated[
        str | None, Option(help="Who comes when: bernoulli, markov, cyclic; default full, or --per-round at random.")
    ] = None,
    rounds: Annotated[int | None, Option(help="Rounds of training; default 20.")] = None,
    local_steps: Annotated[int | None, Option(help="Minibatch steps of a client in a round; default 20.")] = None,
    batch_size: Annotated[int | None, Option(help="Examples in a minibatch; default 32.")] = None,
    lr: Annotated[float | None, Option(help="Learning rate; default 0.05, 0.005 for signsgd.")] = None,
    epsilon: Annotated[float | None, Option(help="Privacy that dp_lora may spend in all rounds; default 8.")] = None,
    delta: Annotated[float | None, Option(help="The delta that goes with it; default 1e-5.")] = None,
    partition: Annotated[
        str | None, Option(help="iid, dirichlet:A, fedau:A, by:COLUMN; default dirichlet:0.5.")
    ] = None,
    attack: Annotated[
        str | None, Option(metavar="NAME:SHARE", help="Clients that attack, a share or a number: fedq show attacks.")
    ] = None,
    seed: Annotated[int | None, Option(help="Every random choice follows from it; default 0.")] = None,
    set_: Annotated[list[str] | None, Option("--set", metavar="K=V", help="Any other key; may be repeated.")] = None,
    until: Annotated[str | None, Option(help="Stop early: accuracy=0.9 or up=10MB.")] = None,
    tolerate: Annotated[float | None, Option(help="Share of a round's clients that may fail; default 0.")] = None,
    engine: Annotated[str | None, Option(help="local (default: threads) or ray; never changes a result.")] = None,
    workers: Annotated[
        int | None, Option(help="How many train at once; above 1, on Ray unless --engine local.")
    ] = None,
    ray_address: Annotated[str | None, Option(help="Join this Ray cluster: auto or HOST:PORT.")] = None,
    out: Annotated[Path, Option(help="Folder for run directories.")] = Path("runs"),
    json: Annotated[bool, Option("--json", help="Print one JSON object at the end, on stdout.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="Say nothing but errors.")] = False,
    print_config: Annotated[bool, Option("--print-config", help="Print the resolved TOML and exit.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Train a model on simulated clients, over a wire of real packed bytes.

    CONFIG is a TOML file, such as the run.toml of a run; flags come over it.

    Example: fedq simulate --strategy fedvote --clients 20 --rounds 20 --seed 1
    """
    flags: dict[str, Any] = {k: v for k, v in locals().items() if k in SECTION and v is not None}
    if sys.stderr.isatty() and not quiet:
        print("loading ...", end="\r", file=sys.stderr, flush=True)
    from fedq.config import resolve
    from fedq.until import Until

    resolved = resolve(_settings(config, flags, set_ or []))
    if print_config:
        print(resolved.to_toml(), end="")
        return 0
    if until:
        Until.parse(until)
    from fedq.cli.playing import play_on_screen
    from fedq.simulation import begin

    run, simulation = begin(resolved, out)
    return play_on_screen(run, simulation, until=until, as_json=json, quiet=quiet)


def _settings(config: Path | None, flags: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """A file's settings, then flags over them, then `--set`; each remembers where it was given."""
    from fedq.config import named, over
    from fedq.settings import Setting, parse_set, read_toml

    given = {}
    for name, value in flags.items():
        plain = str(value.expanduser().resolve()) if isinstance(value, Path) else value
        flag = f"--{name.replace('_', '-')}"
        given[SECTION[name]] = Setting(plain, flag if value is True else f"{flag} {value}")
    return over(read_toml(config) if config else {}, given | named(parse_set(sets)))
