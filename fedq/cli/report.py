"""`fedq report`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def report(
    runs: Annotated[list[Path], Argument(help="Directories of runs, or folders that hold runs.")],
    out: Annotated[Path | None, Option(help="The file; default report.html, of one run in its directory.")] = None,
    target: Annotated[
        float | None, Option(help="Accuracy to reach; default what all runs reach.", min=0, max=1)
    ] = None,
    anyway: Annotated[bool, Option("--anyway", help="Runs of different data, models or seeds too.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write one HTML file about runs, to read offline and to send.

    Claim, figures, ledger of every round, settings with differences marked,
    privacy and credibility, provenance, and the command that repeats each run.

    Example: fedq report runs/fedvote-digits-s0-b5d13f
    """
    import sys

    from fedq.cli.repeat import repeating
    from fedq.config import make_config
    from fedq.report.comparison import Comparison
    from fedq.report.sections import report as written
    from fedq.report.tables import writing

    comparison = Comparison.of(runs, target, anyway=anyway)
    for note in comparison.notes:
        print(f"note: {note}", file=sys.stderr)
    inside = runs[0] if len(runs) == 1 and (runs[0] / "run.toml").is_file() else Path()
    file = out or inside / "report.html"
    defaults = make_config(strategy=comparison.groups[0].config["strategy.name"]).as_dict()
    page = written(comparison, defaults, repeating)
    with writing(file.parent):
        file.write_text(page, encoding="utf-8")
    print(file)
    return 0
