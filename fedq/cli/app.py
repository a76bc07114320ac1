"""The commands, in the order of `fedq --help`."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

import fedq
from fedq.cli.bench import bench
from fedq.cli.compare import compare
from fedq.cli.demo import demo
from fedq.cli.deploy import deploy
from fedq.cli.doctor import doctor
from fedq.cli.explain import explain
from fedq.cli.export import export
from fedq.cli.new import new
from fedq.cli.report import report
from fedq.cli.resume import resume
from fedq.cli.show import show
from fedq.cli.simulate import simulate
from fedq.cli.sweep import sweep
from fedq.errors import EXIT_INTERRUPTED

app = typer.Typer(
    name="fedq",
    help="Federated learning over a wire of real packed bytes.",
    epilog="Start with: fedq demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedq {fedq.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Federated learning over a wire of real packed bytes."""


def _stoppable(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command; Ctrl-C, which typer would pass over in silence, is said."""

    @wraps(command)
    def run(*args: Any, **named: Any) -> Any:
        try:
            return command(*args, **named)
        except KeyboardInterrupt:
            typer.echo("interrupted before there was anything to save", err=True)
            return EXIT_INTERRUPTED

    return run


for command in (simulate, resume, sweep, compare, report, export, show, explain, new, doctor, demo):
    app.command()(_stoppable(command))
app.add_typer(bench, name="bench")
app.add_typer(deploy, name="deploy")
