"""What the site has beyond docs/: README, CHANGELOG, CONTRIBUTING and the measured experiments, from where they stand.

Links between them are written as they work in the repository; here they are turned to the site's pages, and links to
files that are no pages become their names.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
WHOLE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand elsewhere, with the pictures that they show."""
    measured = [
        p.relative_to(ROOT).as_posix()
        for kind in ("*.md", "*/*.md", "*/*.svg")
        for p in ROOT.glob(f"experiments/{kind}")
    ]
    for place in (*WHOLE, *measured):
        made = File.generated(config, _page(place), abs_src_path=str(ROOT / place))
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links between files of the repository to links between pages."""
    here = _source(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        to = _page(place)
        if files.get_file_from_path(to) is None:
            return text if (ROOT / place).exists() else found[0]
        return f"{image}[{text}]({posixpath.relpath(to, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return LINK.sub(turned, markdown)


def _page(place: str) -> str:
    """The site's path of a file of the repository."""
    return "index.md" if place == "README.md" else place.removeprefix("docs/")


def _source(page: str) -> str:
    """The inverse of `_page`."""
    if page == "index.md":
        return "README.md"
    return page if page in WHOLE or page.startswith("experiments/") else f"docs/{page}"
