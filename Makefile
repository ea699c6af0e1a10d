# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out/demo
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-fast mutants lint house clean help
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# torch is heavy; install once, again only when what we depend on changes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.11 ..."; exit 2; }
	@echo "installing into $(VENV) (2 to 5 minutes, about 7 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# What users set reaches commands through the environment: spaces and quotes in it mean nothing to the shell.
# FLAGS is one argument: pipeline.py takes the words apart, and quotes in it hold a word together.
demo clean: export OUT := $(OUT)
demo: export CLIPS := $(CLIPS)
demo: export FLAGS := $(FLAGS)

demo: $(STAMP) ## curate, train, encode and generate at small size (CLIPS=folder-or-manifest for your own, OUT=folder, FLAGS="--curate.license.assume CC0-1.0")
	@$(BIN)/python jobs/pipeline.py run --recipe demo --output "$$OUT" $(if $(CLIPS),--clips "$$CLIPS") $(if $(FLAGS),--flags="$$FLAGS")

# Two at a time; a file's tests stay together, and the files in the order that tests/conftest.py gives them.
test: $(STAMP) ## the test suite; ends with what was skipped and why
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP) ## the tests that are not marked slow, in under two minutes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

mutants: $(STAMP) ## which changes of a module its own tests do not notice; writes docs/mutants.md (MODULES=..., else all: half an hour)
	@$(BIN)/python -m tests.mutants $(MODULES)

faults: $(STAMP) ## the fault matrix (ten minutes, root for small disks); writes docs/reliability.md
	@LINGEN_FAULTS=1 LINGEN_WRITE_FAULTS=1 $(BIN)/python -m pytest tests/faults

lint: $(STAMP) ## ruff, types, and the order of layers and rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

house: $(STAMP) ## draw docs/house.svg anew from the imports
	@$(BIN)/python docs/draw_house.py

clean: ## remove what the demo made, if nothing else is in OUT
	@$(BIN)/python -m pipelines.clean
