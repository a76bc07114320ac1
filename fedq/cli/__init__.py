"""The `fedq` command. One file a command; heavy imports happen inside the commands, so that help is quick."""

import os
import sys
import traceback

from fedq.errors import EXIT_ENVIRONMENT, EXIT_INTERRUPTED, FedqError, reason


def main() -> None:
    """Run the command line and exit with its status; errors are said in the user's words."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    debug = "--debug" in sys.argv[1:]
    try:
        sys.exit(_run())
    except FedqError as error:
        if debug:
            traceback.print_exc()
        print(*(str(e) for e in (error, *error.also)), sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(FedqError("FQ206", reason(error), where=" ".join(["fedq", *sys.argv[1:]])), file=sys.stderr)
        sys.exit(EXIT_ENVIRONMENT)
    except Exception as error:
        if debug:
            raise
        print(f"error: fedq itself failed: {type(error).__name__}: {error}", file=sys.stderr)
        print("  hint: repeat the command with --debug and report what it prints", file=sys.stderr)
        sys.exit(1)


def _run() -> int:
    import click

    from fedq.cli.app import app

    try:
        status = app(prog_name="fedq", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_:
        print(help_.format_message())
        return 0
    except click.UsageError as error:
        from fedq.cli.unknown import explained

        raise explained(error, " ".join(["fedq", *sys.argv[1:]])) from None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    return status if isinstance(status, int) else 0
