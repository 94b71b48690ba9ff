# Every target makes the virtual environment it needs; `make help` lists them.

PYTHON ?= python3
# Installed ahead of everything else, so that no other package's bare "torch" picks a version. May be any arguments of
# `pip install` that give torch, such as a path to a wheel.
TORCH  ?= torch==2.13.0
# The Triton whose resources docs/kernels/resources.md lists; a torch for CUDA brings its own, which is then kept.
TRITON ?= triton==3.6.0
FASTA  ?=
OUT    ?= demo-out
# For `make gpu`: seconds for all steps, the steps, and where the folder of the GPU goes.
TIME    ?= 1500
STEPS   ?= test profile suite tune targets
RESULTS ?= bench/results

VENV  := .venv
BIN   := $(VENV)/bin
# Modules are compiled when they are first imported: most of those of the dependencies never are.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
STAMP := $(VENV)/.installed
# The compiled extension, in the checkout; what it is made from.
EXT   := $(VENV)/.extension
CSRC  := $(shell find csrc -type f) hyena_kernels/_build.py setup.py

# Tests, mypy and the site start dozens of Python processes. Without byte code on disk each compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test pytest sanitize resources gpu lint typecheck docs wheel clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo "Variables: PYTHON=python3.12  TORCH='torch==2.13.0'  TIME=1500  STEPS='test profile suite tune targets'"

venv: $(EXT) ## install everything into .venv, and compile the extension

$(STAMP): pyproject.toml hyena_kernels/_version.py
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "error: $(PYTHON) not found: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), 3.11 or newer is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $(PYTHON) has no venv module: install it (Debian and Ubuntu: the package python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV); the first time this takes a few minutes, most of it for torch."
	@"$(PYTHON)" -m venv $(VENV)
	@echo "  1/2  $(TORCH)"
	@$(INSTALL) $(TORCH) 'setuptools>=77' wheel
	@[ "$$(uname)" != Linux ] || $(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) $(TRITON)
	@echo "  2/2  hyena-kernels[dna,dev], editable"
	@# The extension has a rule of its own: a change of its sources compiles it again and installs nothing.
	@HYENA_SKIP_EXT=1 $(INSTALL) --no-build-isolation --editable '.[dna,dev]'
	@touch $@

$(EXT): $(STAMP) $(CSRC)
	@echo "Compiling the extension; this takes about a minute."
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

demo: $(EXT) ## train and evaluate a small model: [FASTA=genome.fa] [OUT=demo-out]
	@$(BIN)/python -m hyenadna.cli.demo $(if $(FASTA),--fasta "$(FASTA)") --out "$(OUT)"

# The extension is compiled beside mypy, which takes one processor alone for the longest.
test: lint ## lint, check types, build the documentation, run the tests
	@$(MAKE) --no-print-directory --jobs=2 typecheck $(EXT) docs
	@$(MAKE) --no-print-directory pytest

# One process for each processor, at most 8. A process that is done takes tests over from the others.
pytest: $(EXT)
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=worksteal --durations=10

# Not a part of `make test`: compiling the kernels twice and running them under sanitizers takes a quarter of an hour.
sanitize: $(EXT) ## the CPU kernels under the address, undefined behaviour and thread sanitizers
	@$(BIN)/python tests/sanitizers/run.py

# `make test` compiles only the kernels that have changed since, and a sixteenth of the others.
resources: $(STAMP) ## compile every GPU kernel ahead of time, and keep registers and memory for `make test`
	$(BIN)/python -m hyena_kernels.testing.resources.triton --check --record
	@if command -v nvcc >/dev/null; then set -x; $(BIN)/python -m hyena_kernels.testing.resources.cuda --check --record; fi

# Uses the installed environment: a machine with a GPU often has its own torch, and no network to install another.
gpu: ## test, tune and measure on a GPU: [TIME=1500] [STEPS="test profile suite tune targets"]
	@$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) -m bench.kernels.gpu --time "$(TIME)" --steps $(STEPS) --results "$(RESULTS)"

lint: $(STAMP) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## mypy on the two packages
	$(BIN)/mypy

# Strict: a link to a page, a heading or a name that does not exist is an error.
docs: $(STAMP) ## build the site of the documentation into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

wheel: $(STAMP) ## build a wheel into dist/, with the extension for this platform
	@# Without isolation the build sees the torch of .venv, which the extension is compiled against.
	rm -rf build
	$(BIN)/python -m build --no-isolation --wheel

clean: ## remove builds and caches
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	rm -f hyena_kernels/*.so hyena_kernels/_build_report.json $(EXT)
	find bench hyena_kernels hyenadna tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv and demo-out
	rm -rf $(VENV) demo-out
