"""What the documentation says, run: code blocks, names of files, and the README's commands."""

import re
from pathlib import Path

import pytest

from fedq.attacks import ATTACKS
from fedq.kernels import CODECS
from fedq.participation import PARTICIPATION
from fedq.strategies import STRATEGIES
from tests.conftest import ROOT


def test_extending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's Python blocks, one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, object] = {"__name__": "page"}
    try:
        for block in blocks:
            exec(compile(block, "extending.md", "exec"), names)
    finally:
        for registry, name in ((STRATEGIES, "damped"), (CODECS, "byte"), (ATTACKS, "lazy"), (PARTICIPATION, "turns")):
            registry.pop(name, None)
    assert len(names["run"].records()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_links_and_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for file in re.findall(
        r"`((?:fedq|tests|kernels|strategies|participation|clients|models|data|grids|cli|report)/[\w./]+\.py)`", text
    ):
        assert (ROOT / file).exists() or (ROOT / "fedq" / file).exists() or "foo.py" in file, file


def test_readme_commands_are_real(fedq, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Every `fedq simulate` line of the README resolves; every other command exists."""
    lines = [
        line.split("#")[0].split() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("fedq ")
    ]
    assert len(lines) >= 8
    for _, command, *words in lines:
        if command == "simulate":
            assert fedq(command, *words, "--print-config")[0] == 0
        else:
            assert fedq(command, "--help")[0] == 0


def test_run_directories_in_the_readme_are_those_of_the_first_command() -> None:
    from fedq.config import make_config

    named = re.findall(r"fedvote-digits-s0-([0-9a-f]{6})", (ROOT / "README.md").read_text())
    assert named
    assert set(named) == {make_config().hash[:6]}
