"""The commands, in the order of `fedq --help`."""

from typing import Annotated

import typer

import fedq
from fedq.cli.bench import bench
from fedq.cli.compare import compare
from fedq.cli.demo import demo
from fedq.cli.doctor import doctor
from fedq.cli.resume import resume
from fedq.cli.show import show
from fedq.cli.simulate import simulate

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


for command in (simulate, resume, compare, show, doctor, demo):
    app.command()(command)
app.add_typer(bench, name="bench")
