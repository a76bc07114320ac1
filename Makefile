# Two commands: `make demo` shows it working, `make test` tests it. Both install into .venv first.

PYTHON ?= python3
PY := .venv/bin/python
export HF_HUB_OFFLINE := 1
# torch's CPU build where the package index offers one; leave empty for the index's default
TORCH ?= torch>=2.6,<2.14
SOURCES := fedq tests experiments benchmarks notebooks

.PHONY: demo test slow lint docs install clean

demo: .venv/installed
	.venv/bin/fedq demo

test: .venv/installed lint
	$(PY) -m pytest -n 2 -m "not slow" --doctest-modules tests fedq

slow: .venv/installed
	$(PY) -m pytest -m slow

lint: .venv/installed
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy

docs: .venv/installed
	.venv/bin/mkdocs build --quiet --strict --site-dir build/site

install: .venv/installed

.venv/installed: pyproject.toml CMakeLists.txt $(wildcard fedq/kernels/native/*)
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
