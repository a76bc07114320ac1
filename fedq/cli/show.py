"""`fedq show`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fedq.cli.complete import anything


def show(
    what: Annotated[str, Argument(autocompletion=anything)],
    json: Annotated[bool, Option("--json", help="Print JSON on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """List what there is to choose from, or show one of them with its settings, or one run.

    WHAT is strategies, codecs, clients, models, attacks, data, partitions,
    participation, settings or runs; or the name of one of them, or the directory
    of a run.

    Example: fedq show strategies
    """
    import json as json_

    from fedq.report import catalogue

    if what in catalogue.KINDS:
        print(json_.dumps(catalogue.listing(what)) if json else catalogue.listing_text(what))
    elif (Path(what) / "run.toml").is_file():
        from fedq.runs import open_run

        run = open_run(what)
        print(json_.dumps(run.totals()) if json else catalogue.run_page(run))
    else:
        pages = catalogue.pages(what)
        print(json_.dumps(pages) if json else "\n\n\n".join(map(catalogue.page_text, pages)))
    return 0
