# Pilotage's tasks. Each target sets up what it needs in a virtual environment of its own (.venv).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
N      ?= 200

.PHONY: help demo test check bench docs faults clean

help:
	@echo "make demo     run a molecular-dynamics campaign on a pilot (about two minutes)"
	@echo "make test     all tests"
	@echo "make check    ruff, mypy --strict, import-linter"
	@echo "make bench    figures beside their baselines, in one run"
	@echo "make docs     the documentation, in site/"
	@echo "make faults   N=200 rounds of killing things at random"
	@echo "make clean    remove the virtual environment and caches"

demo: $(VENV)/.demo
	$(BIN)/python demo/campaign.py

test: $(VENV)/.test
	@scripts/get-browser
	@scripts/get-slurm
	$(BIN)/python -m pytest

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/pilotage bench

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

faults: $(VENV)/.test
	$(BIN)/python -m tests.faults.rounds --rounds $(N)

# One stamp per set of extras; a change of pyproject.toml brings them up to date.
$(VENV)/.demo: EXTRAS = demo
$(VENV)/.test: EXTRAS = test,demo,analytics
$(VENV)/.check: EXTRAS = check,test,analytics
$(VENV)/.docs: EXTRAS = docs,analytics
$(VENV)/.demo $(VENV)/.test $(VENV)/.check $(VENV)/.docs: pyproject.toml scripts/make-venv
	@scripts/make-venv $(PYTHON) $(VENV) $(EXTRAS)
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
