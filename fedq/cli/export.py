"""`fedq export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Form(StrEnum):
    """What runs can be exported as."""

    csv = "csv"
    parquet = "parquet"
    tensorboard = "tensorboard"
    mlflow = "mlflow"


def export(
    form: Annotated[Form, Argument(help="What to write.")],
    runs: Annotated[list[Path], Argument(help="Directories of runs, or folders that hold runs.")],
    out: Annotated[
        Path | None, Option(help="File or folder; default runs.csv, runs.parquet, tensorboard/, mlflow.db.")
    ] = None,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write runs for other tools; the run directories stay the truth.

    csv and parquet: one table, a line a round. tensorboard: a folder of event
    files. mlflow: an SQLite data base (mlflow ui --backend-store-uri ...).

    Example: fedq export csv runs/fedvote-digits-s0-b5d13f --out fedvote.csv
    """
    import sys

    from fedq.finding import opened
    from fedq.report.exports import EXPORTS

    write, default = EXPORTS[form.value]
    found, notes = opened(runs)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(write(found, out or Path(default)))
    return 0
