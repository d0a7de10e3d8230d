# `make repro` runs the study, `make test` holds it to its tests. Both set up .venv first if they have to, and cost
# seconds when nothing changed. They need Python 3.11, git and make.

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
PIP_TOOLS := pip-tools==7.6.2

# A stage is `python -m stages.<name>`, so .venv's python comes first; an IDE's or conda's own settings stay out.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
unexport PYTHONHOME PYTHONPATH

.PHONY: repro cifake test lint set-up image lock

# OPTIONS changes settings first: make repro OPTIONS='-S profile=cifake-cpu -S dataset_path=/data/archive.zip'
repro: set-up  # run the stages that changed, side by side, and print the result table
	$(BIN)/python tools/repro.py $(OPTIONS)
	$(BIN)/python -m tools.show_results

# OPTIONS adds to it: make cifake OPTIONS='-S dataset_path=/data/archive.zip -S guidance=8'
cifake: set-up  # the published study (docs/cifake.md), as an experiment of DVC's; needs a CUDA GPU
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make cifake: no CUDA GPU here; docs/cifake.md has the command for a CPU")'
	$(BIN)/dvc exp run -S profile=cifake -S 'sources=[real,fake,synthetic,mixed]' -S 'vit_inits=[random,stablerep-synthetic,hub]' -S 'detectors=[fake,synthetic]' $(OPTIONS)
	$(BIN)/python -m tools.show_results

test: lint  # lint, types and tests
	$(BIN)/python -m pytest

lint: set-up  # style, types, spelling, container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

# DVC asks for a git repository; an unpacked archive has none.
set-up: .venv/installed
	@test -e .git || grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local core.no_scm true

.venv/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@

image:  # the CUDA image of docs/containers.md
	docker build -t understudy .

lock:  # pin anew what pyproject.toml asks for; what is pinned already stays unless it has to move
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_TOOLS)
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --generate-hashes --extra dev --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml
