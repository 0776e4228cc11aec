# Every target works alone on a fresh clone with Python 3.10 to 3.12, git and make.
#   make demo            train, test and show a small RGB-D model (no GPU needed)
#   make test            ruff, mypy and the whole test suite, onedl stack
#   make test-openmmlab  the test suite on OpenMMLab's last releases
#   make report          render benchmarks/*.json into README.md and docs/
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.10 || command -v python3)
TORCH ?= torch==2.13.0
VENV ?= .venv
VENV_OPENMMLAB ?= .venv-openmmlab
XMODAL_WHEELS ?= ../shared/wheels
DEMO_ITERS ?= 700
PYTEST_ARGS ?=
JOBS ?= 2

export PYTHON TORCH XMODAL_WHEELS
# Two processes at a time, one thread each: more threads would fight for two cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
# On a CPU torchvision may have its Python part only (tools/setup_venv.sh): enough here.
export PYTHONWARNINGS ?= ignore:Failed to load image Python extension

ONEDL := $(VENV)/.ready
OPENMMLAB := $(VENV_OPENMMLAB)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint pytest openmmlab test-openmmlab report clean

help:
	@sed -n 's/^#   //p' Makefile

$(ONEDL): setup.cfg tools/setup_venv.sh
	@bash tools/setup_venv.sh onedl $(VENV)

$(OPENMMLAB): setup.cfg tools/setup_venv.sh
	@bash tools/setup_venv.sh openmmlab $(VENV_OPENMMLAB)

setup: $(ONEDL)

openmmlab: $(OPENMMLAB)

demo: $(ONEDL)
	$(VENV)/bin/python tools/demo/run.py --iters $(DEMO_ITERS)

lint: $(ONEDL)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

pytest: $(ONEDL)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test: lint pytest
	$(VENV)/bin/python tools/benchmark/report.py --check

test-openmmlab: $(OPENMMLAB)
	$(VENV_OPENMMLAB)/bin/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

report: $(ONEDL)
	$(VENV)/bin/python tools/benchmark/report.py

clean:
	rm -rf $(VENV) $(VENV_OPENMMLAB) work_dirs build *.egg-info
