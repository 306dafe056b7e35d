# Two commands: `make demo` and `make test`. Both make the environment first; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUTF8 := 1

.PHONY: demo test test-real lint clean

demo: $(VENV)/.installed
	$(BIN)/tfseg demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not real_data"

test-real: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or real_data" --durations=15

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tfseg needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
