"""`fedq sweep`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def sweep(
    config: Annotated[Path | None, Argument(help="A TOML file; default is fedq's own config.")] = None,
    grid: Annotated[
        list[str] | None, Option(metavar="K=A,B,C", help="What varies; may be repeated. 0..2 is 0, 1, 2.")
    ] = None,
    set_: Annotated[
        list[str] | None, Option("--set", metavar="K=V", help="A key of every run; may be repeated.")
    ] = None,
    jobs: Annotated[int, Option("--jobs", "-j", help="Runs at the same time.", min=1)] = 1,
    out: Annotated[Path, Option(help="Folder for run directories.")] = Path("runs"),
    dry_run: Annotated[bool, Option("--dry-run", help="Print each run's command and start none.")] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object at the end, on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Run every combination of a grid; those that are done already are not run again.

    Stopped by Ctrl-C or by a failure, the same command does what is missing.
    A run that fails stops no other. --set ray_address=auto plays the clients of
    all runs on one Ray cluster.

    Example: fedq sweep --grid strategy=fedvote,fedavg --grid seed=0..2 -j 2
    """
    import json as json_
    import sys

    from fedq.cli.jobs import Job, play_jobs
    from fedq.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN
    from fedq.sweep import begun, points, runs_by_hash

    found, known = points(config, set_ or [], [_dotted(g) for g in grid or []], out), runs_by_hash(out)
    work = [Job.of(point, begun(point.config, known), jobs) for point in found]
    todo = [job for job in work if job.state == "to do"]
    many = f"{len(work)} run{'s' if len(work) != 1 else ''}"
    print(f"{many}, {len(work) - len(todo)} done already, {len(todo)} to do", file=sys.stderr)
    if dry_run:
        print(*(job.command for job in todo), sep="\n", end="\n" if todo else "")
        return EXIT_DONE
    stopped = play_jobs(todo, jobs, lines=sys.stderr if json else sys.stdout)
    failed = [job for job in work if job.state == "failed"]
    if json:
        print(json_.dumps({"runs": [job.as_dict() for job in work]}))
    if stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    if failed:
        print(f"{len(failed)} failed; the same command tries them again", file=sys.stderr)
    print(f"Next:  fedq compare {out}/*", file=sys.stderr)
    return EXIT_RUN if failed else EXIT_DONE


def _dotted(grid: str) -> str:
    """`lr=0.1,0.2` as `client.lr=0.1,0.2`: what a flag of `fedq simulate` is called varies its key."""
    from fedq.cli.flags import SECTION

    name, equals, values = grid.partition("=")
    return SECTION.get(name.strip().replace("-", "_"), name) + equals + values
