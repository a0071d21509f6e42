# make train ARGS="env=dmc_walker"      everything it needs is installed on the first call
# Other Python: make train PYTHON=python3.12     Other pip options: make train PIP_FLAGS="--extra-index-url …"
.POSIX:
.PHONY: help train test trust lint doctor bench clean
.SUFFIXES:

PYTHON = python3
VENV = .venv
PIP_FLAGS =
ARGS =
JOBS = 2
BIN = $(VENV)/bin
RUN_STAMP = $(VENV)/.installed-run
DEV_STAMP = $(VENV)/.installed-dev

help:
	@echo 'make train ARGS="env=dmc_walker"   train an agent (ARGS=--help lists everything)'
	@echo 'make test  [ARGS="-k replay"]      run the tests'
	@echo 'make trust                         run the tests of every promise in SECURITY.md at full length'
	@echo 'make lint                          format, lint, types and import directions'
	@echo 'make doctor                        check this machine'
	@echo 'make bench [ARGS="env=dmc_walker"] measure speed'
	@echo 'make clean                         remove the virtual environment and caches; runs/ stays'

train: $(RUN_STAMP)
	@$(BIN)/python -m agents.train $(ARGS)

doctor: $(RUN_STAMP)
	@$(BIN)/python -m agents.doctor $(ARGS)

bench: $(RUN_STAMP)
	@$(BIN)/python -m agents.bench $(ARGS)

# In the order collected: else files of few tests come last, and those are the slow ones.
test: $(DEV_STAMP)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

trust: $(DEV_STAMP)
	@$(BIN)/python -m pytest -n $(JOBS) --dist load tests/trust -m "not learning" $(ARGS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "error: there is no $(PYTHON)"; \
		echo "  fix: install Python 3.11 or 3.12, or say which one: make train PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is `$(PYTHON) -V`"; \
		echo "  fix: make train PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments"; \
		echo "  fix: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	@touch $(RUN_STAMP) $@
