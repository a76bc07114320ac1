"""`fedq compare`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def compare(
    runs: Annotated[list[Path], Argument(help="Directories of runs, or folders that hold runs.")],
    out: Annotated[Path, Option(help="Folder for the pictures and the tables.")] = Path("compare"),
    target: Annotated[
        float | None, Option(help="Accuracy to reach; default what all runs reach.", min=0, max=1)
    ] = None,
    anyway: Annotated[bool, Option("--anyway", help="Compare runs of different data, models or seeds too.")] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object on stdout instead of the table.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Compare runs: accuracy against bytes up, all bytes, rounds and seconds.

    Runs that differ in the seed only are one line: the mean, in a band from the
    least to the most. Written: pictures (SVG, PNG), table.csv, .tex and .json.

    Example: fedq compare runs/fedvote-digits-s* runs/fedavg-digits-s*
    """
    import json as json_
    import sys

    from fedq.report.comparison import Comparison
    from fedq.report.plots import pictures

    comparison = Comparison.of(runs, target, anyway=anyway)
    for note in comparison.notes:
        print(f"note: {note}", file=sys.stderr)
    files = [*pictures(comparison, out), *comparison.write(out)]
    if json:
        print(json_.dumps({**comparison.as_dict(), "files": [str(f) for f in files]}))
    else:
        print(comparison.table())
    print("wrote  " + "  ".join(str(f) for f in files), file=sys.stderr)
    return 0
