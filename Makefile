# Each target sets up what it needs in .venv; nothing else of the machine is touched. `make bench` is the quick set.
PYTHON ?= python3
BIN := .venv/bin
BACKEND ?= torch
DEMO := $(if $(filter vllm sglang,$(BACKEND)),.venv-engines,.venv)

.PHONY: demo model test test-engines test-frameworks test-pythons lint docs bench bench-engines clean

.venv/installed: pyproject.toml constraints.txt hatch_build.py $(shell find preble -name "*.c")
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch]" --group dev
	touch $@

# A real model answers questions, then a load test; without a network for the model the load test alone. `make demo
# BACKEND=vllm` or `sglang` runs the load test on these engines.
demo: $(DEMO)/installed
	$(DEMO)/bin/python -m bench.demo --backend $(BACKEND)

# The small real model, in ~/.cache/preble; without it the tests that need it are skipped, and this fails.
model: .venv/installed
	$(BIN)/python -m preble get-model smollm2-135m

# A process for each core; at the end the slowest tests, and those that were skipped with the reason.
test: .venv/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 20

# The real engines, on a CPU: about 4 GB, in an environment of their own.
.venv-engines/installed: pyproject.toml tests/engines/environment.sh tests/engines/constraints.txt
	PYTHON=$(PYTHON) tests/engines/environment.sh .venv-engines
	touch $@

test-engines: .venv-engines/installed
	.venv-engines/bin/python -m pytest tests/engines

# Agent frameworks, in an environment for each generation of OpenAI's client. Versions are pinned with all they need.
.venv-openai%/installed: tests/frameworks/openai%.txt pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(@D)/bin/python -m uv pip install --quiet --python $(@D)/bin/python --no-deps -r $< -e .
	touch $@

test-frameworks: .venv-openai2/installed .venv-openai3/installed
	PREBLE_FRAMEWORKS=2 .venv-openai2/bin/python -m pytest tests/frameworks
	PREBLE_FRAMEWORKS=3 .venv-openai3/bin/python -m pytest tests/frameworks

# The tests that need no model, on each of these versions of Python that is installed.
test-pythons:
	tests/pythons.sh 3.11 3.12 3.13

# The site, in out/site. It needs neither torch nor preble itself.
.venv-docs/installed: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --quiet
	@echo "out/site/index.html"

bench: .venv/installed
	$(BIN)/python -m bench.micro --quick
	$(BIN)/python -m bench.overhead --quick
	$(BIN)/python -m bench.faces --quick
	$(BIN)/python -m bench.demo --quick
	$(BIN)/python -m bench.paper --quick
	$(BIN)/python -m bench.policies --quick
	$(BIN)/python -m bench.scale --quick
	$(BIN)/python -m bench.peers --quick
	$(BIN)/python -m bench.failover --quick
	$(BIN)/python -m bench.live --quick
	$(BIN)/python -m bench.gpu --quick

# The quick set of what needs a real engine.
bench-engines: .venv-engines/installed
	.venv-engines/bin/python -m bench.engine_queue --quick
	.venv-engines/bin/python -m bench.live --backend vllm --quick
	.venv-engines/bin/python -m bench.peers --engine sglang --quick

lint: .venv/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy examples --exclude examples/frameworks/
	$(BIN)/hadolint Dockerfile

clean:
	rm -rf .venv .venv-* out dist
