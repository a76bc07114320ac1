"""`fedq explain`."""

from typing import Annotated

from typer import Argument, Option

from fedq.cli.complete import among
from fedq.errors import CODES


def explain(
    code: Annotated[
        str | None, Argument(help="The code of an error, such as FQ301.", autocompletion=among(*CODES))
    ] = None,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Say what an error means, what causes it and what to do; without CODE, list them.

    Example: fedq explain FQ301
    """
    from fedq.report.explanations import explained

    print(explained(code) if code else "\n".join(f"{k}  {about}" for k, about in CODES.items()))
    return 0
