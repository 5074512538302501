# `make chat` and `make test` are the whole set-up: they create .venv, install this checkout into it
# and start, each step named with its size. Everything lands in .venv; nothing needs root. Another
# interpreter: make PYTHON=python3.12
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# For the command line: make chat ARGS='-p "Hello"', make test ARGS='-k cache'
ARGS   ?=
# Tests install what only some of them need (tests/extras.py), just before the first of those.
# One process per core, a file's tests in one of them; ARGS=-n0 for one in all, as --pdb wants it.
PYTEST := DSV4_INSTALL=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile

# A run starts hundreds of processes: each would otherwise compile the same Python files again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help chat test processors slow parity nvrtc soak agents lint check pages bench report screens clean

help:
	@echo "make chat    chat with the embedded model (ARGS='--model PATH' for another)"
	@echo "make test    the plain test suite"
	@echo "make processors  the numeric tests with the sums of two other processors (Linux)"
	@echo "make slow    the long tests"
	@echo "make parity  live comparison with transformers and mlx-vlm (installs torch)"
	@echo "make soak    runs of half an hour, in no CI"
	@echo "make agents  coding agents from npm at work against dsv4-chat serve, in no CI"
	@echo "make nvrtc   compile the CUDA texts (installs NVIDIA's compiler, Linux)"
	@echo "make lint    formatting, lint, types"
	@echo "make check   make lint, then make test"
	@echo "make pages   write the generated pages and golden texts anew"
	@echo "make bench   benchmarks; results are appended to benchmarks/results"
	@echo "make report  one page about this program on this machine's GPU, to send"
	@echo "make screens pictures of the terminal program, docs/screens"
	@echo "make clean   remove .venv and build folders"

chat: $(VENV)/.installed
	@$(BIN)/dsv4-chat $(ARGS)

test: $(VENV)/.installed-test
	$(PYTEST) $(ARGS)

processors: $(VENV)/.installed-test
	$(BIN)/python -m tests.processors $(ARGS)

slow: $(VENV)/.installed-test
	$(PYTEST) -m slow $(ARGS)

soak: $(VENV)/.installed-test
	$(PYTEST) -m soak --timeout=7200 $(ARGS)

# They stay in $DSV4_AGENTS, else among the person's caches; ARGS='pi codex' for some of them.
agents: $(VENV)/.installed-test
	$(BIN)/python -m tests.agents $(ARGS)

parity: $(VENV)/.installed-parity
	DSV4_REQUIRE=parity,$(DSV4_REQUIRE) $(PYTEST) --dist=loadgroup -m parity $(ARGS)

nvrtc: $(VENV)/.installed-nvrtc
	DSV4_REQUIRE=nvrtc,$(DSV4_REQUIRE) $(PYTEST) -m nvrtc $(ARGS)

lint: $(VENV)/.installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

# Tests compare each of these with what the code says, and ask for this command where they differ.
pages: $(VENV)/.installed-test
	$(BIN)/python -m cli.manual
	$(BIN)/python -m benchmarks.kernel_table
	$(BIN)/python -m benchmarks.launch_table
	$(BIN)/python -m benchmarks.recipe_sizes
	$(BIN)/python -m benchmarks.streamed_table
	$(BIN)/python -m benchmarks.claims
	$(PYTEST) --quiet --update-golden tests/cli/test_options.py tests/cli/show/test_renderer.py \
		tests/cli/serve/test_client_configs.py tests/cli/serve/test_service_unit.py \
		tests/cli/serve/test_status_screen.py

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.terminal
	$(BIN)/python -m benchmarks.launches
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.context
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.convert

# On Linux MLX's build for NVIDIA cards is a package of its own, wanted where there is a driver.
CUDA := $(if $(shell command -v nvidia-smi),$(VENV)/.installed-cuda13)

report: $(VENV)/.installed $(CUDA)
	$(BIN)/python -m benchmarks.report $(ARGS)

screens: $(VENV)/.installed-test
	$(BIN)/python -m docs.make_screens

clean:
	rm -rf $(VENV) build dist *.egg-info

# What each step fetches and what it takes in .venv, measured on Linux x86-64 with Python 3.11; pip
# names every package as it comes.
SIZE_program := 70 MB to fetch, 390 MB in .venv
SIZE_test    := 6 MB to fetch
SIZE_check   := 44 MB to fetch: ruff, mypy, pre-commit, mcp
SIZE_parity  := torch, transformers and mlx-vlm, 3.1 GB to fetch where torch brings CUDA
SIZE_nvrtc   := 65 MB to fetch
SIZE_bench   := torch, transformers and mlx-vlm, 3.1 GB to fetch where torch brings CUDA
SIZE_cuda13  := MLX for NVIDIA cards, more than 1 GB to fetch
PIP = $(BIN)/python -m pip install --disable-pip-version-check

# One stamp per set of extras, renewed when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "==> The program with mlx, mlx-lm, transformers' tokenizers and OpenBLAS: $(SIZE_program)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.installed | $(BIN)/python
	@echo "==> What \`make $*\` needs beside the program: $(SIZE_$*)"
	$(PIP) --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "dsv4-mlx needs Python 3.11 or newer and found " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	@echo "==> A Python environment in $(VENV): 20 MB, nothing to fetch"
	$(PYTHON) -m venv $(VENV)
