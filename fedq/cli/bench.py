"""`fedq bench`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from typer import Option, Typer

bench = Typer(help="Measure this machine: kernels and whole simulations.", no_args_is_help=True)

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
    """Measure this machine: kernels and whole simulations."""


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
    from fedq.bench.kernels import rows

    found = [row for size in d or [25_000_000] for row in rows(size, n, others=others)]
    print(shown(found if json else [{c: row[c] for c in COLUMNS} for row in found], json=json))
    return 0


@bench.command()
def simulation(
    work: Annotated[list[str] | None, Option(help="mlp or lenet5; may be repeated. Default both.")] = None,
    contender: Annotated[list[str] | None, Option(help="Only these; may be repeated.")] = None,
    repeats: Annotated[int, Option(help="Runs of each contender, interleaved.", min=1)] = 3,
    json: Annotated[bool, Option("--json", help="Print a JSON list on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Time whole simulations of one job: fedq, stock Flower, and plain loops in one and in two processes.

    Client updates a second of warm rounds; each contender is a process of its own. With pfl-research and FedJAX in
    environments of their own: python benchmarks/simulation.py --peers DIR, in the repository.

    Example: fedq bench simulation --work mlp --contender fedq --contender loop
    """
    from fedq.bench.simulation import OWN, own, rows
    from fedq.bench.work import JOBS
    from fedq.errors import FedqError, nearest

    for given, known in ((work or [], tuple(JOBS)), (contender or [], OWN)):
        for name in given:
            if name not in known:
                raise FedqError("FQ101", f"there is no `{name}` to measure", hint=nearest(name, known))
    print(shown(list(rows(work or list(JOBS), own(contender or OWN), repeats)), json=json))
    return 0


@bench.command()
def scale(
    population: Annotated[
        list[int] | None, Option(help="Clients; may be repeated. Default 1,000 to 1,000,000.", min=10)
    ] = None,
    per_round: Annotated[
        list[int] | None, Option(help="Clients of a round; may be repeated. Default 10 to 10,000.", min=1)
    ] = None,
    rounds: Annotated[int | None, Option(help="Rounds that are timed; default 5 to 30.", min=2)] = None,
    set_: Annotated[
        list[str] | None, Option("--set", metavar="K=V", help="Another key of the runs; may be repeated.")
    ] = None,
    json: Annotated[bool, Option("--json", help="Print a JSON list on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Time rounds and weigh memory as the population grows, then as a round's clients do.

    startup_s is from the start of a process to the end of its first round; memory
    is resident, in MiB; mb_workers is that of Ray's processes, cpu_us without them.

    Example: fedq bench scale --population 1000000 --per-round 10000
    """
    from fedq.bench.scale import PER_ROUND, POPULATIONS, rows
    from fedq.settings import parse_set

    parse_set(set_ or [])  # malformed ones are told
    settings = dict(word.split("=", 1) for word in set_ or [])
    print(shown(list(rows(population or POPULATIONS, per_round or PER_ROUND, settings, rounds)), json=json))
    return 0


def shown(rows: Sequence[Mapping[str, Any]], *, json: bool) -> str:
    """Rows as a JSON list or as an aligned table, in which None is a dash."""
    from json import dumps

    from fedq.report.tables import table

    if json:
        return dumps(rows)
    return table([{column: "-" if value is None else str(value) for column, value in row.items()} for row in rows])
