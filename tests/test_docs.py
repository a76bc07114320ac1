"""What the documentation says, run: code blocks, names of files, and the README's commands."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedq.attacks import ATTACKS
from fedq.kernels import CODECS
from fedq.participation import PARTICIPATION
from fedq.strategies import STRATEGIES
from tests.conftest import ROOT

Fedq = Callable[..., tuple[int, str, str]]


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


PAGES = [p for pattern in ("*.md", "docs/*.md", "experiments/**/README.md") for p in sorted(ROOT.glob(pattern))]


@pytest.mark.parametrize("page", [p.relative_to(ROOT).as_posix() for p in PAGES])
def test_links_and_files_exist(page: str) -> None:
    """Also the programs that stand beside measured numbers."""
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for file in re.findall(
        r"`((?:fedq|tests|kernels|strategies|participation|clients|models|data|grids|cli|report)/[\w./]+\.py)`", text
    ):
        assert (ROOT / file).exists() or (ROOT / "fedq" / file).exists() or "foo.py" in file, file
    for program in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / program).exists(), program
    for module in re.findall(r"python -m ((?:experiments|tests)[.\w]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def commands(page: str) -> list[list[str]]:
    """The words after `fedq` of a page's lines that begin with it."""
    lines = (ROOT / page).read_text().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fedq ")]


@pytest.mark.parametrize("page", ["README.md", "docs/howto.md", "docs/tutorial.md"])
def test_commands_are_real(fedq: Fedq, tiny: tuple[str, ...], page: str) -> None:
    """Every `fedq simulate` line resolves, and every other command has the flags that it is given."""
    found = commands(page)
    assert len(found) >= 8
    Path("runs/fedvote-digits-s0-b5d13f").mkdir(parents=True)
    for toml in ("mine.toml", "runs/fedvote-digits-s0-b5d13f/run.toml"):
        Path(toml).write_text(fedq("simulate", "--print-config")[1])
    for command, *words in found:
        if command == "simulate":
            given = words[: words.index(">")] if ">" in words else words
            assert fedq(command, *given, "--print-config")[0] == 0
        elif not command.startswith("--"):
            within = words[:1] if command in ("bench", "deploy") else []
            status, told, _ = fedq(command, *within, "--help")
            assert status == 0
            assert all(word.split("=")[0] in told for word in words if word.startswith("-") and word != "-j")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_tutorial(tmp_path: Path) -> None:
    """Every command of the tutorial, one after the other, as a reader would type them."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in "".join(blocks).splitlines():
        env = {**os.environ, "PATH": path}
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    assert len(list((tmp_path / "runs/seeds").glob("*/run.toml"))) == 6
    assert (tmp_path / "seeds.html").stat().st_size < 1_000_000
    assert (tmp_path / "compare/seeds/table.tex").exists()


@pytest.mark.slow
def test_site(tmp_path: Path) -> None:
    """The documentation builds with warnings as errors, and its pages hold what they include."""
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    assert all(name in api for name in ("aggregate_train", "check_codec", "RoundRecord", "FedqError"))
    assert "<table>" in (tmp_path / "site/experiments/fedvote_digits/table/index.html").read_text()


def test_one_version() -> None:
    import fedq as package

    assert f"\nversion: {package.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {package.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_run_directories_in_the_readme_are_those_of_the_first_command() -> None:
    from fedq.config import make_config

    named = re.findall(r"fedvote-digits-s0-([0-9a-f]{6})", (ROOT / "README.md").read_text())
    assert named
    assert set(named) == {make_config().hash[:6]}
