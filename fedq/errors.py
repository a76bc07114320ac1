"""Every error that a user can cause: what is wrong, where, and what to type next.

`assert` is for our mistakes, `FedqError` for theirs. A code names the error, its hundred names who must act and so
the exit status: FQ1xx a wrong value (2 on the command line, 3 in a file), FQ2xx environment, data or a locked
run (4), FQ3xx a client or a strategy failed (5).
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, final

EXIT_DONE, EXIT_USAGE, EXIT_FILE, EXIT_ENVIRONMENT, EXIT_RUN, EXIT_INTERRUPTED = 0, 2, 3, 4, 5, 130

CODES = {
    "FQ101": "unknown name",
    "FQ102": "unknown key",
    "FQ103": "value out of range or of the wrong type",
    "FQ104": "the file is not valid TOML",
    "FQ105": "two settings that do not go together",
    "FQ106": "a malformed flag",
    "FQ107": "runs that are unlike",
    "FQ201": "data not found",
    "FQ202": "data that cannot be used",
    "FQ203": "not a run",
    "FQ204": "the run is in use",
    "FQ205": "the run cannot be resumed",
    "FQ206": "the environment lacks something",
    "FQ207": "a deployment that is not as it must be",
    "FQ208": "a deployment's server that does not answer",
    "FQ301": "a client failed",
    "FQ302": "a malformed payload",
    "FQ303": "a value that cannot be encoded",
    "FQ304": "no reply could be used",
    "FQ305": "the strategy failed",
}


@final
class FedqError(Exception):
    """An error in the user's words.

    `where` is a flag, `file:line`, a path or a client; `from_file` tells a wrong value in a file (exit 3) from one
    on the command line (exit 2); `hint` is a word or a command to type; `key` is the setting at fault, from which
    whoever knows the settings fills in `where`.
    """

    def __init__(
        self, code: str, message: str, *, where: str = "", hint: str = "", key: str = "", from_file: bool = False
    ) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code, self.message, self.where, self.hint = code, message, where, hint
        self.key, self.from_file = key, from_file
        self.also: tuple[FedqError, ...] = ()  # further errors found at the same time

    @property
    def exit_code(self) -> int:
        """The exit status of a command that ends with this error."""
        if self.code.startswith("FQ1"):
            return EXIT_FILE if self.from_file else EXIT_USAGE
        return EXIT_ENVIRONMENT if self.code.startswith("FQ2") else EXIT_RUN

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.code, self.message, self.where, self.hint, self.key, self.from_file)


def _rebuild(code: str, message: str, where: str, hint: str, key: str, from_file: bool) -> FedqError:
    return FedqError(code, message, where=where, hint=hint, key=key, from_file=from_file)


def together(*steps: Callable[[], Any]) -> list[Any]:
    """What each step returns. Where some raise FedqError, the first, with the others in its `also`."""
    made, errors = [], list[FedqError]()
    for step in steps:
        try:
            made.append(step())
        except FedqError as error:
            errors += [error, *error.also]
    if errors:
        errors[0].also = tuple(errors[1:])
        raise errors[0]
    return made


def reason(error: OSError) -> str:
    """An OSError in words.

    >>> reason(PermissionError(13, "Permission denied", "/etc/x"))
    'permission denied: `/etc/x`'
    """
    said = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{said}: `{error.filename}`" if error.filename else said


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or all of them if none is near.

    >>> nearest("fedvot", ["fedavg", "fedvote"])
    'did you mean `fedvote`?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names)}"
