"""The bar of a run in a notebook: one line that changes in place."""

from html import escape
from importlib import import_module
from typing import Any, final


@final
class NotebookBar:
    """What `rich.progress.Progress` is on a terminal, as far as a run needs it; no widgets are needed."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._done = rounds, 0
        self._handle: Any = None
        self._ipython: Any = None

    def start(self) -> None:
        """Show an empty bar."""
        self._ipython = import_module("IPython.display")
        self._handle = self._ipython.display(self._ipython.HTML(self._html("starting")), display_id=True)

    def update(self, completed: int, said: str) -> None:
        """Show how far it is."""
        self._done = completed
        self._handle.update(self._ipython.HTML(self._html(said)))

    def stop(self) -> None:
        """Leave the bar as it is."""

    def _html(self, said: str) -> str:
        bar = f'<progress value="{self._done}" max="{self._rounds}"></progress>'
        return f"{bar} {self._done}/{self._rounds} &nbsp; {escape(said)}"


def in_notebook() -> bool:
    """Whether what is displayed is shown by a notebook."""
    import sys

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
