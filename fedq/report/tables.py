"""Rows as aligned text, CSV and LaTeX, and files that say in words why they could not be written."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any

from fedq.errors import FedqError, reason

NARROW = 20  # characters that are no column any more
TEX = str.maketrans({c: f"\\{c}" for c in "_%&#${}"} | {"~": r"\~{}", "^": r"\^{}", "\\": r"\textbackslash{}"})


def table(rows: Sequence[Mapping[str, str]], width: int | None = None) -> str:
    """Rows as aligned text, the first column first; of `width` characters, the last column's text is wrapped.

    >>> print(table([{"name": "x", "about": "a long story"}], width=14))
    name  about
    x     a long
          story
    """
    if not rows:
        return "none"
    keys = list(rows[0])
    widths = [max(len(k), *(len(r[k]) for r in rows)) for k in keys]
    texts = [keys, *([r[k] for k in keys] for r in rows)]
    left = (width or 0) - sum(w + 2 for w in widths[:-1])
    if width and left < widths[-1] and left >= min(NARROW, width // 2):
        texts = [line for text in texts for line in _wrapped(text, left)]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(text, widths, strict=True)).rstrip() for text in texts)


def _wrapped(text: Sequence[str], width: int) -> Iterator[list[str]]:
    """A row as the lines that its last column takes."""
    *before, last = text
    for number, line in enumerate(wrap(last, width) or [""]):
        yield [*(before if number == 0 else [""] * len(before)), line]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; None is an empty field.

    >>> print(to_csv([{"a": 1, "b": None}]), end="")
    a,b
    1,
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_latex(rows: Sequence[Mapping[str, str]]) -> str:
    r"""Rows as a booktabs table.

    >>> print(to_latex([{"run": "fedvote_x", "up": "3 %"}]))
    \begin{tabular}{lr}
    \toprule
    run & up \\
    \midrule
    fedvote\_x & 3 \% \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    texts = [" & ".join(t.translate(TEX).replace("+-", r"$\pm$") for t in row) for row in (rows[0], *_values(rows))]
    head, *body = (f"{text} \\\\" for text in texts)
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join([
        f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule", *body, "\\bottomrule", "\\end{tabular}", ""
    ])  # fmt: skip


@contextmanager
def writing(path: Path, flag: str = "--out") -> Iterator[None]:
    """Make the folder `path`; FedqError FQ206, in words, if it or a file in it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        hint = f"choose another folder with {flag}"
        raise FedqError("FQ206", f"cannot write: {reason(error)}", where=f"{flag} {path}", hint=hint) from error


def _values(rows: Sequence[Mapping[str, str]]) -> Iterator[list[str]]:
    return (list(row.values()) for row in rows)
