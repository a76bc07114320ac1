"""Flags and commands that do not exist: what was meant, a key of the config perhaps."""

import difflib

import click

from fedq.errors import FedqError

ELSEWHERE = {  # what other simulators and training scripts call it
    "--algorithm": "--strategy",
    "--alpha": "--partition dirichlet:ALPHA",
    "--dirichlet": "--partition dirichlet:ALPHA",
    "--epochs": "--set client.local_epochs=...",
    "--fraction-fit": "--per-round",
    "--gpu": "--device cuda",
    "--jobs": "--workers",
    "--learning-rate": "--lr",
    "--method": "--strategy",
    "--noise-multiplier": "--epsilon",
    "--num-clients": "--clients",
    "--num-rounds": "--rounds",
    "--num-workers": "--workers",
    "--output-dir": "--out",
    "--run-dir": "--out",
    "--runs": "--out",
    "--save-dir": "--out",
    "--steps": "--local-steps",
    "--users": "--clients",
}


def explained(error: click.UsageError, where: str) -> FedqError:
    """A complaint of the command line's parser in the user's words. FQ106."""
    command = error.ctx.command if error.ctx else None
    path = error.ctx.command_path if error.ctx else "fedq"
    said, hint = error.format_message(), ""
    if isinstance(error, click.NoSuchOption):
        said = f"`{path}` has no flag `{error.option_name}`"
        flags = {flag for p in command.params for flag in p.opts if flag.startswith("--")} if command else set()
        meant = ELSEWHERE.get(error.option_name, "")
        said_here = f"did you mean `{meant}`?" if meant.partition(" ")[0] in flags else ""
        hint = " ".join(filter(None, [said_here, _key(error.option_name) if "--set" in flags else ""]))
        hint = hint or _near(error.option_name, flags, "`{}`")
    elif isinstance(command, click.Group) and error.ctx and said.startswith("No such command"):
        name = said.split("'")[1]
        said, hint = f"`{path}` has no command `{name}`", _near(name, set(command.commands), f"`{path} {{}}`")
    return FedqError("FQ106", said, where=where, hint=hint or f"{path} --help")


def _key(flag: str) -> str:
    """What `--set` takes where flags have no such word."""
    from fedq.config import keys

    word = flag.lstrip("-").replace("-", "_")
    meant = [k for k in keys() if word in (k, k.rpartition(".")[2], k.replace(".", "_"))]
    return "it is a key of the config: " + " or ".join(f"--set {k}=..." for k in meant) if meant else ""


def _near(word: str, known: set[str], form: str) -> str:
    close = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.75)
    return f"did you mean {form.format(close[0])}?" if close else ""
