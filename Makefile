# Two commands: `make demo` shows it working, `make test` tests it. Both install into .venv first, the second more.

PYTHON ?= python3
PY := .venv/bin/python
export HF_HUB_OFFLINE := 1
# torch's CPU build where the package index offers one; leave empty for the index's default
TORCH ?= torch>=2.6,<2.14
SOURCES := fedq tests experiments benchmarks notebooks

.PHONY: demo test slow lint docs install clean

demo: $(or $(wildcard .venv/installed),.venv/runs)
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

BUILT := pyproject.toml CMakeLists.txt $(wildcard fedq/kernels/native/*)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

define install
@echo "Installing into .venv: a minute or two where packages must be fetched"
$(PYTHON) -m venv .venv
$(PIP) --upgrade pip
$(PIP) "$(TORCH)"
$(PIP) --editable $(1)
touch $@
endef

.venv/installed: $(BUILT)
	$(call install,".[dev]")

# what running fedq and testing a strategy of one's own takes, without the tools of its development
.venv/runs: $(BUILT)
	$(call install,. pytest)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
