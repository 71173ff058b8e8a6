# make demo: set up and transcribe the spoken examples. make test: set up and run the tests.
# Override the interpreter or the PyTorch build, for instance
#   make setup PYTHON=python3.12
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Processes that share the tests, one arithmetic thread each: as many as cores, 2 to 8. Each begins with tests that stand
# together, so that they share what they set up, and takes over some of a slower one's in the end.
WORKERS ?= $(shell n=$(CORES); [ $$n -ge 2 ] || n=2; [ $$n -le 8 ] || n=8; echo $$n)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
STAMP := $(VENV)/setup.stamp
SHELL_FILES = $(shell find recipes egs tools .ci \( -name data -o -name exp -o -name downloads \) -prune \
	-o -type f \( -name '*.sh' -o -path .ci/run \) -print | sort)

.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all lint check docs clean

help:
	@echo "make setup     the virtual environment $(VENV) with speechmtp in it"
	@echo "make demo      transcribe a real recording, and spelled letters with every strategy"
	@echo "make test      the tests (under 5 minutes on two cores; WORKERS=N processes)"
	@echo "make test-all  the long random checks too"
	@echo "make lint      ruff, mypy, shellcheck"
	@echo "make check     lint and test"
	@echo "make docs      write the tables of docs/strategies.md from the code"
	@echo "make clean     remove the virtual environment"

setup: $(STAMP)

# PyTorch first and by its own name, so that no other package chooses its version or build.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than Python 3.11; set PYTHON" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
		> $(VENV)/torch.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c $(VENV)/torch.txt \
		-e '.[dev,plot,server,train]'
	@touch $@

demo: setup
	$(BIN)/speechmtp demo

test: setup
	$(PYTEST)

test-all: setup
	$(PYTEST) -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" shellcheck -x $(SHELL_FILES)

check: lint test

docs: setup
	$(BIN)/speechmtp strategies --markdown docs/strategies.md

clean:
	rm -rf $(VENV)
