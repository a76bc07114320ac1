"""`fedq simulate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from fedq.cli import flags
from fedq.cli.flags import SECTION

if TYPE_CHECKING:
    from fedq.settings import Settings


def simulate(
    config: Annotated[Path | None, Argument(show_default=False)] = None,
    strategy: flags.Strategy = None,
    codec: flags.Codec = None,
    error_feedback: flags.ErrorFeedback = None,
    data: flags.Data = None,
    data_dir: flags.DataDir = None,
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    test_share: flags.TestShare = None,
    model: flags.Model = None,
    clients: flags.Clients = None,
    per_round: flags.PerRound = None,
    participation: flags.Participation = None,
    rounds: flags.Rounds = None,
    local_steps: flags.LocalSteps = None,
    batch_size: flags.BatchSize = None,
    lr: flags.Lr = None,
    epsilon: flags.Epsilon = None,
    delta: flags.Delta = None,
    partition: flags.Partition = None,
    attack: flags.Attack = None,
    seed: flags.Seed = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="K=V", help="Any other key (fedq show settings, fedq show NAME); may be repeated."),
    ] = None,
    only_client: Annotated[
        int | None, Option(min=0, help="Play this client alone, in this process: CONFIG of a failed run.")
    ] = None,
    round_: Annotated[
        int | None, Option("--round", min=1, help="The round that --only-client plays; default 1.")
    ] = None,
    until: Annotated[str | None, Option(help="Stop early: accuracy=0.9 or up=10MB.")] = None,
    tolerate: flags.Tolerate = None,
    engine: flags.Engine = None,
    workers: flags.Workers = None,
    ray_address: flags.RayAddress = None,
    device: flags.Device = None,
    precision: flags.Precision = None,
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
    given: dict[str, Any] = {k: v for k, v in locals().items() if k in SECTION and v is not None}
    if sys.stderr.isatty() and not quiet:
        print("loading ...", end="\r", file=sys.stderr, flush=True)
    from fedq.config import resolve
    from fedq.errors import FedqError, together
    from fedq.until import Until

    if round_ is not None and only_client is None:
        hint = "to play fewer or more rounds: --rounds"
        raise FedqError("FQ105", "--round says which round --only-client plays", where=f"--round {round_}", hint=hint)
    resolved, _ = together(
        lambda: resolve(_settings(config, given, set_ or [])), lambda: Until.parse(until) if until else None
    )
    if print_config:
        print(resolved.to_toml(), end="")
        return 0
    if only_client is not None:
        from fedq.alone import play_alone

        return play_alone(resolved, config, only_client, round_ or 1, as_json=json, debug=debug)
    from fedq.cli.playing import play_on_screen
    from fedq.simulation import begin

    run, simulation = begin(resolved, out)
    return play_on_screen(run, simulation, until=until, as_json=json, quiet=quiet)


def _settings(config: Path | None, values: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """A file's settings, then flags over them, then `--set`; each remembers where it was given."""
    from fedq.config import named, over
    from fedq.errors import together
    from fedq.settings import Setting, parse_set

    file, others = together(lambda: _read(config) if config else {}, lambda: parse_set(sets))
    given = {}
    for name, value in values.items():
        plain = str(value.expanduser().resolve()) if isinstance(value, Path) else value
        flag = f"--{name.replace('_', '-')}"
        given[SECTION[name]] = Setting(plain, flag if value is True else f"{flag} {value}")
    return over(file, given | named(others))


def _read(config: Path) -> "Settings":
    """The file's settings; who names a strategy instead is told the flag."""
    from fedq.errors import FedqError
    from fedq.settings import read_toml

    try:
        return read_toml(config)
    except FedqError as error:
        from fedq.strategies import STRATEGIES

        if str(config) in STRATEGIES and not config.exists():
            error.hint = f"did you mean `--strategy {config}`?"
        raise
