# Each target sets up what it needs in .venv; nothing else of the machine is touched. `make bench` is the quick set.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch]" --group dev
	touch $@

demo: .venv/installed
	$(BIN)/python -m bench.demo

test: .venv/installed
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python -m bench.micro --quick
	$(BIN)/python -m bench.overhead --quick
	$(BIN)/python -m bench.demo --quick
	$(BIN)/python -m bench.policies --quick
	$(BIN)/python -m bench.scale --quick
	$(BIN)/python -m bench.peers --quick
	$(BIN)/python -m bench.live --quick

lint: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf .venv out dist
