"""`fedq resume`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option


def resume(
    run: Annotated[Path, Argument(help="The directory of a run.")],
    rounds: Annotated[int | None, Option(help="Play up to this many rounds instead of the run's own.", min=1)] = None,
    engine: Annotated[str | None, Option(help="Play on here: local or ray; never changes a result.")] = None,
    workers: Annotated[int | None, Option(help="How many train at once.", min=1)] = None,
    ray_address: Annotated[str | None, Option(help="Join this Ray cluster: auto or HOST:PORT.")] = None,
    until: Annotated[str | None, Option(help="Stop early: accuracy=0.9 or up=10MB.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object at the end, on stdout.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="Say nothing but errors.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Go on with a run that was stopped; its bits are those of an uninterrupted run.

    Example: fedq resume runs/fedvote-digits-s0-b5d13f
    """
    from fedq.cli.playing import play_on_screen
    from fedq.simulation import reopen
    from fedq.until import Until

    if until:
        Until.parse(until)
    where: dict[str, Any] = {"engine": engine, "workers": workers, "ray_address": ray_address}
    opened, simulation = reopen(run, rounds=rounds, **{k: v for k, v in where.items() if v is not None})
    return play_on_screen(opened, simulation, until=until, as_json=json, quiet=quiet)
