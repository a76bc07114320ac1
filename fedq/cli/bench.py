"""`fedq bench`."""

from typing import Annotated

from typer import Option, Typer

bench = Typer(help="Measure this machine: kernels against the speed of memory.", no_args_is_help=True)

COLUMNS = (
    "kernel",
    "d",
    "n",
    "isa",
    "median_us",
    "gbps",
    "floor_gbps",
    "of_memcpy",
    "of_floor",
    "vs_numpy",
    "vs_torch",
)


@bench.callback()
def _group() -> None:
    """Measure this machine: kernels against the speed of memory."""


@bench.command()
def kernels(
    d: Annotated[
        list[int] | None, Option(help="Weights of a model; may be repeated. Default 25,000,000.", min=512)
    ] = None,
    n: Annotated[int, Option(help="Clients of a vote.", min=2)] = 100,
    others: Annotated[bool, Option(help="Time NumPy and torch doing the same jobs.")] = True,
    json: Annotated[bool, Option("--json", help="Print a JSON list on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Time the packed kernels on one thread, beside the memory they must move, NumPy and torch.

    gbps is of the float32 side; of_floor the share of the speed at which memory alone would allow the job.

    Example: fedq bench kernels --d 1000000 --n 100
    """
    import json as json_

    from fedq.bench.kernels import rows
    from fedq.report.tables import table

    found = [row for size in d or [25_000_000] for row in rows(size, n, others=others)]
    if json:
        print(json_.dumps(found))
    else:
        print(table([{c: "-" if row[c] is None else str(row[c]) for c in COLUMNS} for row in found]))
    return 0
