"""The package as it is installed: native wheel, fallback wheel without a compiler, and the core under sanitizers."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMPILER = shutil.which("c++") or shutil.which("g++")
ISA = "from fedq.kernels import active; print(active.isa())"


def built(folder: Path, *options: str, **environment: str) -> Path:
    """A wheel built from a copy of the sources, unpacked into `folder`; skips where pip cannot fetch build tools."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", ".*_cache"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), *options, str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, env={**os.environ, **environment})
    if "No matching distribution" in done.stdout + done.stderr:
        pytest.skip("pip cannot fetch scikit-build-core here")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return wheel


def run(folder: Path, *words: str, **environment: str) -> str:
    """A Python that finds fedq in `folder`/site only; what it prints."""
    env = {**os.environ, "PYTHONPATH": str(folder / "site"), **environment}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_native_wheel(tmp_path: Path) -> None:
    """With a compiler the wheel holds the library, for any Python 3 of this platform, and it is the one in use."""
    wheel = built(tmp_path)
    assert "-py3-none-" in wheel.name
    assert "any" not in wheel.name.split("-")[-1]
    assert run(tmp_path, "-c", ISA) in ("portable", "avx2", "avx512")
    assert run(tmp_path, "-c", ISA, FEDQ_KERNELS="numpy") == "numpy"
    assert run(tmp_path, "-c", ISA, FEDQ_KERNELS="portable") == "portable"


def test_fallback_wheel(tmp_path: Path) -> None:
    """Without a compiler the install succeeds, and NumPy serves."""
    wheel = built(tmp_path, CC="/bin/false", CXX="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert run(tmp_path, "-c", ISA) == "numpy"
    settings = ["--clients", "4", "--rounds", "1", "--local-steps", "2", "--quiet"]
    run(tmp_path, "-c", "from fedq.cli import main; main()", "simulate", *settings)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_sdist_builds_a_wheel(tmp_path: Path) -> None:
    """From the sdist alone: what a release publishes is enough to build from, and to run the tests of."""
    pytest.importorskip("build")
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", ".*_cache"))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(source)], capture_output=True, text=True
    )
    if "No matching distribution" in done.stdout + done.stderr:
        pytest.skip("pip cannot fetch scikit-build-core here")
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {
        "pyproject.toml",
        "CMakeLists.txt",
        "LICENSE",
        "README.md",
        "tests/conftest.py",
        "fedq/report/style.css",
    } <= names
    assert any(name.startswith("fedq/kernels/native/") for name in names)
    with zipfile.ZipFile(wheel) as built_:
        packed = set(built_.namelist())
    assert {"fedq/report/style.css", "fedq/templates/strategy.txt"} <= packed
    assert not any(name.startswith(("tests", "docs", "experiments")) for name in packed)


def test_editable_install_and_repository_root_use_the_native_core() -> None:
    """Where this environment was installed with a compiler, the expected core is active from anywhere."""
    if not COMPILER:
        pytest.skip("no C++ compiler")
    for folder in (ROOT, Path("/")):
        done = subprocess.run([sys.executable, "-c", ISA], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.strip() != "numpy"


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_sanitizers(tmp_path: Path) -> None:
    """The kernels' own tests, hypothesis and mutated payloads included, under AddressSanitizer and UBSan."""
    asan = subprocess.run([str(COMPILER), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(asan).is_file():
        pytest.skip("no AddressSanitizer runtime")
    built(tmp_path, "--config-settings=cmake.define.FEDQ_SANITIZE=ON")
    contracts = "tests/contracts/test_contracts.py"  # of codecs only: others draw, and matplotlib throws under asan
    tests = ["tests/kernels", f"{contracts}::test_codec", f"{contracts}::test_scaled_codec"]
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sanitizers = {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1"}
    said = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, PYTHONMALLOC="malloc", **sanitizers)
    assert " passed" in said
    assert "failed" not in said
