"""The screen of a run: what it will cost, a bar on a terminal, one aligned line a round elsewhere, what came out.

Talk goes to stderr. Lines of rounds are data and go to stdout, or to stderr when stdout is kept for `--json`.
"""

import logging
import sys
from collections.abc import Mapping
from math import prod
from typing import Any, TextIO, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fedq.report.notebook import NotebookBar, in_notebook
from fedq.report.units import duration, share, size

EVERY = 10  # rounds between lines that stay above a terminal's bar


def line(metrics: Mapping[str, Any], rounds: int, *, deployed: bool) -> str:
    """One round as aligned `key=value` text; `deployed` if the run has such an accuracy at all."""
    width = len(str(rounds))
    fields = {
        "round": f"{metrics['round']:>{width}}/{rounds}",
        "accuracy": f"{share(metrics['accuracy']):<6}",
        **({"deployed": f"{share(metrics['deployed_accuracy']):<6}"} if deployed else {}),
        "loss": f"{share(metrics['loss']):<6}",
        "up": f"{metrics['up_bytes']:<9}",
        "down": f"{metrics['down_bytes']:<9}",
        **({"wire_up": metrics["wire_up_bytes"]} if metrics["wire_up_bytes"] is not None else {}),
        **({"wire_down": metrics["wire_down_bytes"]} if metrics["wire_down_bytes"] is not None else {}),
        "clients": f"{metrics['clients']}",
        **({"epsilon": f"{metrics['epsilon']:.3f}"} if metrics.get("epsilon") is not None else {}),
        **({"failed": metrics["failed"]} if metrics["failed"] else {}),
        **({"rejected": metrics["rejected"]} if metrics["rejected"] else {}),
        **({"client_accuracy": _spread(metrics)} if metrics["client_accuracy"] is not None else {}),
        "seconds": f"{metrics['seconds']:.2f}",
    }
    return "  ".join(f"{k}={v}" for k, v in fields.items())


def plan(simulation: Any, where: str = "", *, workers: str = "") -> str:
    """What a run is going to do and send; sizes here are expected, those of results are measured."""
    config, top = simulation.config, simulation.config.top
    o, shapes = config.client.options, {n: x.shape for n, x in simulation.initial.items()}
    sent = sum(prod(s) for s in shapes.values())
    still = sum(x.size for x in simulation.drawn.values()) - sent
    up, down = (
        sum(c.nbytes(prod(s)) for s in shapes.values())
        for c in (simulation.strategy.codec, simulation.strategy.downlink)
    )
    most_up, most_down = (
        "" if all(len(c.lengths(prod(s))) == 1 for s in shapes.values()) else "at most "
        for c in (simulation.strategy.codec, simulation.strategy.downlink)
    )
    server, random = simulation.strategy, "participation" in config.as_dict()
    down *= server.copies
    if server.downlink.name == "float32" != top.downlink or server.copies > 1:
        most_down = "at most "  # the strategy sends something smaller where it can
    all_up, all_down = ("about " if random or server.asks_first else most for most in (most_up, most_down))
    coming = server.setup.participation.expected()
    total = round(coming * top.rounds)
    who = f"about {coming:.0f}" if random else f"{config.per_round}"
    many = "s" if top.rounds != 1 else ""
    rows = {
        "clients": f"{who} of {top.clients} a round, {_work(o)} of {o.batch_size}, {top.data.partition}",
        **({"attack": f"{top.attack} of {top.clients} clients"} if top.attack else {}),
        "model": f"{config.model.name}: {sent:,} weights sent" + (f", {still:,} never" if still else ""),
        "uplink": f"{most_up}{size(up)} a client ({top.codec})"
        + (f", float32 would be {size(4 * sent)}" if up < 4 * sent else ""),
        "downlink": f"{most_down}{size(down)} a client ({top.downlink})",
        "total": f"{all_up}{size(up * total)} up and {all_down}{size(down * total)} down in {top.rounds} round{many}",
        **({"privacy": simulation.promise} if simulation.promise else {}),
        "workers": workers
        or f"{simulation.clients}"
        + (f", {simulation.clients.cohort} clients at a time" if simulation.clients.cohort > 1 else ""),
    }
    warned = [f"  warning: {text}" for text in simulation.warnings]
    head = f"{config.strategy.name} on {top.data.name}   {where}".rstrip()
    return "\n".join([head, *(f"  {k:<10} {v}" for k, v in rows.items()), *warned])


def _work(o: Any) -> str:
    if o.local_epochs is None:
        return f"{o.local_steps} step{'s' if o.local_steps != 1 else ''}"
    return f"{o.local_epochs:g} epoch{'s' if o.local_epochs != 1 else ''} in batches"


def outcome(totals: Mapping[str, Any], best: tuple[float, int] | None) -> str:
    """What a finished run came to."""
    deployed = totals.get("deployed_accuracy")
    parts = [
        f"accuracy {share(totals.get('accuracy'))}" + (f" (best {best[0]:.4f} at {best[1]})" if best else ""),
        *([f"deployed {share(deployed)}"] if deployed is not None else []),
        *([f"epsilon {totals['epsilon']:.3f}"] if totals.get("epsilon") is not None else []),
        f"{size(totals['up_bytes'] or 0)} up, {size(totals['down_bytes'] or 0)} down",
    ]
    return (
        f"done  {totals['rounds']} round{'s' if totals['rounds'] != 1 else ''} in {duration(totals['seconds'] or 0)}   "
        + "   ".join(parts)
    )


@final
class Screen:
    """Shows a run while it is played; a context manager."""

    def __init__(self, simulation: Any, *, json: bool = False, quiet: bool = False) -> None:
        self._rounds: int = simulation.config.top.rounds
        self._quiet = quiet
        self._deployed = simulation.strategy.deployed(simulation.initial) is not None
        self._lines: TextIO = sys.stderr if json else sys.stdout
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar: Progress | NotebookBar | None = None
        self._task = TaskID(0)
        self._up = 0
        self._seconds: list[float] = []
        self._aloud = _Aloud(self)

    def __enter__(self) -> "Screen":
        logging.getLogger("fedq.aloud").addHandler(self._aloud)
        if in_notebook() and not self._quiet:
            self._bar = NotebookBar(self._rounds)
            self._bar.start()
        elif self._console.is_terminal and not self._quiet:
            text = TextColumn("{task.completed}/{task.total}  {task.fields[said]}", markup=False)
            self._bar = Progress(BarColumn(bar_width=20), text, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self._rounds, said="starting")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("fedq.aloud").removeHandler(self._aloud)
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Talk to the person, on stderr."""
        if not self._quiet:
            self._console.print(text, soft_wrap=not self._console.is_terminal)

    def show(self, record: Any) -> None:
        """Show a round."""
        metrics = record.metrics()
        self._up += metrics["up_bytes"]
        self._seconds.append(metrics["seconds"])
        if self._quiet:
            return
        self._deployed |= metrics["deployed_accuracy"] is not None
        text = line(metrics, self._rounds, deployed=self._deployed)
        if isinstance(self._bar, NotebookBar):
            pass
        elif self._bar is None or not self._lines.isatty():
            print(text, file=self._lines, flush=True)
        elif metrics["round"] % EVERY == 0:
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        if self._bar is not None:
            recent = self._seconds[-10:]
            left = (self._rounds - metrics["round"]) * sum(recent) / len(recent)
            said = f"accuracy {share(metrics['accuracy'])}   {size(self._up)} up   {duration(left)} left"
            if isinstance(self._bar, NotebookBar):
                self._bar.update(metrics["round"], said)
            else:
                self._bar.update(self._task, completed=metrics["round"], said=said)


@final
class _Aloud(logging.Handler):
    """What happens meanwhile, and a person should know: said on the screen as it is logged."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self._screen.say(record.getMessage())


def _spread(metrics: Mapping[str, Any]) -> str:
    return f"{share(metrics['client_accuracy'])}+-{share(metrics['client_accuracy_std'])}"
