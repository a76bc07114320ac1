"""A stranger's package, as a wheel of its own: a strategy and a codec that fedq has never seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = """
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
[project]
name = "stranger"
version = "1.0"
dependencies = ["fedq"]
[project.entry-points."fedq.strategies"]
halfway = "stranger.strategy:Halfway"
[project.entry-points."fedq.codecs"]
coarse = "stranger.codec:coarse"
[tool.setuptools]
packages = ["stranger"]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stranger's wheel is installed, made from what `fedq new` writes."""
    folder = tmp_path_factory.mktemp("stranger")
    package = folder / "source" / "stranger"
    package.mkdir(parents=True)
    texts = {kind: (ROOT / f"fedq/templates/{kind}.txt").read_text() for kind in ("strategy", "codec")}
    (package / "__init__.py").write_text("")
    (package / "strategy.py").write_text(texts["strategy"].replace("CLASS", "Halfway").replace("NAME", "halfway"))
    codec = texts["codec"].replace("CLASS", "Coarse").replace("NAME", "coarse")
    (package / "codec.py").write_text(codec + "\n\ncoarse = Coarse()\n")
    (package.parent / "pyproject.toml").write_text(PROJECT)
    pip = [sys.executable, "-m", "pip"]
    wheel = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(package.parent)]
    done = subprocess.run(wheel, capture_output=True, text=True)
    if "No matching distribution" in done.stdout + done.stderr:
        pytest.skip("pip cannot fetch setuptools here")
    assert done.returncode == 0, done.stderr
    install = [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(next(folder.glob("*.whl")))]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "site"


def run(site: Path, folder: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_shown_completed_and_runs(site: Path, tmp_path: Path) -> None:
    def fedq(*words: str) -> str:
        return run(site, tmp_path, "-m", "fedq", *words)

    assert "halfway" in {row["strategy"] for row in json.loads(fedq("show", "strategies", "--json"))}
    assert "bytes_of_10000" in next(r for r in json.loads(fedq("show", "codecs", "--json")) if r["codec"] == "coarse")
    assert "strategy.rate" in fedq("show", "halfway")
    short = ("--clients", "4", "--rounds", "2", "--local-steps", "2", "--quiet", "--json")
    totals = json.loads(
        fedq("simulate", "--strategy", "halfway", "--codec", "coarse", "--set", "strategy.rate=0.5", *short)
    )
    assert (totals["strategy"], totals["codec"], totals["rounds"]) == ("halfway", "coarse", 2)
    assert json.loads(fedq("simulate", totals["run_dir"], *short[-2:]))["weights_sha256"] == totals["weights_sha256"]
    assert "halfway" in run(site, tmp_path, "-c", "from fedq.cli.complete import names; print(names('strategy'))")


def test_it_passes_the_contracts_by_name(site: Path, tmp_path: Path) -> None:
    checks = """
import fedq
from fedq.testing import check_codec, check_strategy
check_strategy("halfway")
check_strategy("halfway", codec="coarse")
check_codec(fedq.codec("coarse"))
print("held")
"""
    assert run(site, tmp_path, "-c", checks) == "held\n"
