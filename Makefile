# Two commands on a fresh machine: `make demo` and `make test`. Both need Python 3.11-3.13, make and a package index.
#
#   make demo              install, make a shop, train, print the report's tables, serve the page on localhost
#   make demo SERVE=0      the same, ending after the report
#   make demo TORCH="..."  choose another torch build, e.g. TORCH="torch==2.13.0 --index-url URL"
#   make test              install the dev extra; lint, import contracts, types, tests
#   make lint contracts types tests test-fast clean

PYTHON ?= python3
TORCH  ?= "torch>=2.11,<2.14"
SERVE  ?= 1
OUT    ?= runs/demo
PORT   ?= 8000
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# pip would compile one file after the other; some files of some packages are of no Python that runs here.
COMPILE := $(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true

.PHONY: demo test lint contracts types tests test-fast clean

demo: $(VENV)/serve.installed
	$(BIN)/triptych run demo --out $(OUT) --jobs 2
	$(BIN)/triptych report $(OUT)
	@if [ "$(SERVE)" != "0" ]; then $(BIN)/triptych serve $(OUT) --port $(PORT); fi

# mypy has one core to itself and the tests begin on the other.
test: lint contracts
	@$(MAKE) --no-print-directory --jobs 2 types tests

lint: $(VENV)/dev.installed
	$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	$(BIN)/ruff check --quiet .

contracts: $(VENV)/dev.installed
	$(BIN)/lint-imports > $(VENV)/contracts.log || { cat $(VENV)/contracts.log; exit 1; }

types: $(VENV)/dev.installed
	$(BIN)/mypy

# One OpenMP thread per worker: on two cores, spinning threads of two workers slow each other down tenfold.
tests: $(VENV)/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test-fast: $(VENV)/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/unit tests/contracts tests/artifacts

$(VENV)/python.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"triptych needs Python 3.11 to 3.13, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/torch.installed: $(VENV)/python.made
	@echo "installing torch into $(VENV) ..."
	$(PIP) install --no-compile $(TORCH)
	@touch $@

$(VENV)/serve.installed: $(VENV)/torch.installed pyproject.toml
	@echo "installing triptych into $(VENV) ..."
	$(PIP) install --no-compile --editable '.[serve]'
	@$(COMPILE)
	@touch $@

$(VENV)/dev.installed: $(VENV)/torch.installed pyproject.toml
	@echo "installing triptych and its dev extra into $(VENV) ..."
	$(PIP) install --no-compile --editable '.[dev]'
	@$(COMPILE)
	@touch $@ $(VENV)/serve.installed

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
