"""`fedq doctor`."""

from pathlib import Path
from typing import Annotated

from typer import Option


def doctor(
    deploy: Annotated[Path | None, Option(help="A deployment's or a site's folder to check instead.")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object on stdout.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Check this environment: versions, kernels, Flower's private parts, the embedded data.

    Example: fedq doctor
    """
    import json as json_

    from fedq.errors import EXIT_DONE, EXIT_ENVIRONMENT
    from fedq.report.health import checks, headline

    if deploy is not None:
        from fedq.deploy.doctor import examine

        found = examine(deploy)
    else:
        found = checks()
    if json:
        print(json_.dumps({"about": headline(), "checks": [c._asdict() for c in found]}))
    else:
        print(headline())
        for check in found:
            print(f"{'ok' if check.ok else 'FAIL':<5} {check.name:<11} {check.said}")
    return EXIT_DONE if all(c.ok for c in found) else EXIT_ENVIRONMENT
