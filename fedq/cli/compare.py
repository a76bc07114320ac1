"""`fedq compare`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def compare(
    runs: Annotated[list[Path], Argument(help="Directories of runs.")],
    out: Annotated[Path, Option(help="Folder for the picture and the table.")] = Path("compare"),
    target: Annotated[
        float | None, Option(help="Accuracy to reach; default what all runs reach.", min=0, max=1)
    ] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object on stdout instead of the table.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Compare runs: accuracy against uploaded bytes, as a picture and a table.

    Example: fedq compare runs/fedvote-digits-s0-* runs/fedavg-digits-s0-*
    """
    import json as json_
    import sys

    from fedq.report.comparison import Comparison
    from fedq.report.plots import accuracy_against_bytes

    comparison = Comparison.of(runs, target)
    for what in comparison.left_out:
        print(f"warning: {what} and was left out", file=sys.stderr)
    files = accuracy_against_bytes(comparison, out)
    files.append(comparison.write_csv(out / "table.csv"))
    if json:
        print(json_.dumps({"target": comparison.target, "rows": comparison.rows(), "files": [str(f) for f in files]}))
    else:
        print(comparison.table())
    print("wrote  " + "  ".join(str(f) for f in files), file=sys.stderr)
    return 0
