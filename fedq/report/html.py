"""Fragments of a page that stands alone: escaped text, tables, folded parts, figures as inline SVG."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fedq.report.comparison import Comparison
from fedq.report.plots import COLOURS, STYLE, UP, draw

INK = "#010203"  # stands for the page's text colour in figures
PAGE: Any = {
    **STYLE,
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
    "grid.alpha": 0.15,
}


def page(title: str, body: Iterable[str]) -> str:
    """A whole page: no script, and nothing that is fetched from anywhere."""
    style = files("fedq.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A headed part; nothing if there is nothing in it."""
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def table(rows: Sequence[Mapping[str, Any]], *, kind: str = "", caption: str = "") -> str:
    """Rows as a table that scrolls sideways where it is too wide; values that are `Raw` stand as they are."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(k)}</th>' for k in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{text(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    inside = f"{told}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="{kind}">{inside}</table></div>'


class Raw(str):
    """HTML already."""

    __slots__ = ()


def text(value: Any) -> str:
    """A value as escaped text; None as a dash."""
    return value if isinstance(value, Raw) else "-" if value is None else escape(str(value))


def folded(title: str, *parts: str) -> str:
    """Parts behind a line that unfolds them."""
    inside = "\n".join(part for part in parts if part)
    return f"<details><summary>{escape(title)}</summary>\n{inside}\n</details>" if inside else ""


def code(words: str) -> str:
    """Text as it is typed."""
    return f"<pre><code>{escape(words)}</code></pre>"


def shown(comparison: Comparison) -> str:
    """A comparison in a notebook."""
    raw = StringIO()
    with mpl.rc_context(STYLE):
        draw(comparison, UP).savefig(raw, format="svg", metadata={"Date": None})
    svg = raw.getvalue()
    notes = "".join(f"<p>{escape(note)}</p>" for note in comparison.notes)
    return svg[svg.index("<svg") :] + table(comparison.shown()) + notes


def inline(figure: Figure, name: str, caption: str) -> str:
    """A figure as inline SVG; its colours follow the page's, and its ids are its own."""
    raw = BytesIO()
    with mpl.rc_context(PAGE):
        figure.savefig(raw, format="svg", metadata={"Date": None}, transparent=True)
    svg = raw.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{place})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f"<figure>\n{svg.strip()}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
