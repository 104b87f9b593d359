# Two commands: `make serve` ends with a model that answers, `make test` with everything checked. `make help` lists the rest.
# Nothing here names a package index: pip's own configuration decides where packages come from.

MODEL   ?= smollm2-135m
BACKEND ?= default# `make install BACKEND=cuda` on a Linux host with an NVIDIA GPU
VENV    ?= .venv
PORT    ?=# `make serve PORT=8001`; by default what the settings say
ARGS    ?=# further options of `semantic-trio serve`
BIN     := $(VENV)/bin
SHELL   := /bin/bash
PYTHON  ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

INSTALLED := $(VENV)/.installed-$(BACKEND)
DEV       := $(VENV)/.installed-dev
PACKAGE   := $(shell find semantic_trio -name '*.py' 2>/dev/null)
SOURCES   := $(wildcard semantic_trio tests benchmarks examples tools)
UNIT      := $(wildcard tests/unit tests/http)
# Collecting the other files would take longer than some of the searches.
SEARCHES  := $(shell grep -l --include='*.py' -r exhaustive tests/unit tests/http tests/contract tests/integration 2>/dev/null)
INTEGRATION := $(wildcard tests/contract tests/integration)
# Installs, and shows that something happens: a dot for each package that is looked up, a line for each that is downloaded.
INSTALL   := set -o pipefail; install() { $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check "$$@" | awk '\
  function line(text) { if (dots) printf "\n"; dots = 0; print "  " text } \
  /^Collecting/ { printf "."; dots = 1 } \
  /^ *Downloading/ && !/\.metadata/ { line($$2 " " $$3 " " $$4) } \
  /^Installing collected/ { line("unpacking " NF - 3 " packages") } \
  { fflush() }'; }; install
PYTEST    := $(BIN)/python -m pytest
# Two test processes. With several BLAS threads in each, threads of one would wait for a core that the other has.
PARALLEL  := -n 2 --dist worksteal
# Servers that tests of one file share are started once, by the process that has the file.
BY_FILE   := -n 2 --dist loadfile
ONE_THREAD := OPENBLAS_NUM_THREADS=1
# Where the environment forbids bytecode, each server, each command and each test process would compile its sources anew.
unexport PYTHONDONTWRITEBYTECODE
COVER     := .cover
COV       := --cov --cov-report=
REPORT    := $(BIN)/coverage report --data-file=$(COVER)/total
# Where a request's rows, tokens and threads meet: no line of these may go untested.
# Code that runs concurrently, and code that evicts: every line and branch of it is tested.
WATCHED   := application/engine.py application/backlog.py application/inbox.py application/open_work.py application/reports.py application/watched_runner.py application/generation.py adapters/mlx/device.py domain/scheduler.py domain/flight.py \
             domain/admission.py domain/prefill.py domain/decode.py domain/closing.py domain/batch.py domain/queue.py domain/recent_plans.py \
             domain/memory.py domain/live_rows.py domain/agent_memory.py domain/entries.py domain/states.py domain/store.py domain/snapshots.py \
             domain/eviction.py domain/blocks.py domain/pins.py domain/disk.py domain/records.py application/persistence.py application/adoption.py application/reading.py application/threads.py application/delivery.py domain/breaker.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install dev-install system serve test test-unit test-unit-other test-integration test-smoke test-search test-e2e \
        coverage other-python \
        lint format typecheck imports docs docs-serve all ci complexity sbom security licenses bench perf dist clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ------------------------------------------------------------------------------------------------------------------------ install

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later on the PATH. On Debian: apt-get install python3 python3-venv"; exit 1; }
	@# Debian keeps ensurepip in a package of its own; the venv module works without it, and pip can install itself from outside.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) >/dev/null 2>&1 && $(PYTHON) -m pip --python $(BIN)/python install -q pip >/dev/null 2>&1; } \
	  || { rm -rf $(VENV); echo "No virtual environment could be made with $(PYTHON). On Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed-default: pyproject.toml | $(BIN)/python
	@echo "installing semantic-trio into $(VENV): a minute or two the first time"
	@$(INSTALL) -e .
	@touch $@

# mlx-cpu and mlx-cuda-13 bring the same file, mlx/lib/libmlx.so: one goes, then the other is laid down again, whole.
$(VENV)/.installed-cuda: pyproject.toml | $(BIN)/python
	@echo "installing semantic-trio for CUDA into $(VENV)"
	@$(INSTALL) -e '.[cuda]'
	@$(BIN)/python -m pip uninstall -q -y mlx-cpu
	@$(INSTALL) --force-reinstall --no-deps \
	  "mlx-cuda-13==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("mlx"))')"
	@rm -f $(VENV)/.installed-default
	@touch $@

$(DEV): $(INSTALLED)
	@echo "installing the tools into $(VENV): a minute or two the first time"
	@$(INSTALL) -e '.[dev]'
	@if [ "$(BACKEND)" = cuda ]; then $(BIN)/python -m pip uninstall -q -y mlx-cpu; rm -f $(VENV)/.installed-cuda; $(MAKE) --no-print-directory install BACKEND=cuda; fi
	@touch $@

install: $(INSTALLED) system ## The package into .venv, and OpenBLAS where that is possible

dev-install: $(DEV) system ## The same with everything the checks need

# MLX multiplies matrices some sixty times faster on a Linux CPU with OpenBLAS. Says what to do; never fails.
system: $(INSTALLED)
	@[ "$$(uname)" = Linux ] && [ "$(BACKEND)" != cuda ] || exit 0; \
	lacks() { ! $(BIN)/python -c 'import sys; from semantic_trio.adapters.mlx import BLAS; sys.exit(bool(BLAS.cure))' 2>/dev/null; }; \
	if lacks && [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then \
	  echo "installing OpenBLAS (libopenblas0-pthread)"; \
	  { apt-get install -y -qq libopenblas0-pthread || { apt-get update -qq && apt-get install -y -qq libopenblas0-pthread; }; } >/dev/null 2>&1 </dev/null; \
	fi; \
	if lacks; then echo "OpenBLAS is missing and MLX is slow without it: sudo apt-get install libopenblas0-pthread"; fi; \
	command -v g++ >/dev/null || echo "g++ is missing and MLX compiles kernels with it: sudo apt-get install g++"; \
	exit 0

# -------------------------------------------------------------------------------------------------------------------------- serve

serve: install ## Fetch the model and serve it (MODEL=, PORT=, ARGS=)
	@$(BIN)/semantic-trio models pull $(MODEL) >/dev/null
	@exec $(BIN)/semantic-trio serve --model $(MODEL) $(if $(PORT),--port $(PORT)) $(ARGS)

# --------------------------------------------------------------------------------------------------------------------------- test

# In order: what fails fast comes first. Checks take one core each, and so does an installation.
test: ## Everything a change has to pass
	@$(MAKE) --no-print-directory -j2 lint typecheck imports docs other-python
	@rm -rf $(COVER)
	@$(MAKE) --no-print-directory test-unit test-search test-integration test-smoke coverage test-unit-other

test-unit: $(DEV) system ## Fakes and virtual time
	@COVERAGE_FILE=$(COVER)/unit $(PYTEST) $(UNIT) -m 'not exhaustive' $(PARALLEL) $(COV)

test-integration: $(DEV) system ## The real MLX: tiny models and SmolLM2
	@COVERAGE_FILE=$(COVER)/integration $(ONE_THREAD) $(PYTEST) $(INTEGRATION) -m 'not exhaustive' $(PARALLEL) $(COV)

test-smoke: $(DEV) system ## A server process and the real SDKs
	@$(ONE_THREAD) $(PYTEST) tests/smoke $(BY_FILE)

# Without coverage, which makes searches two or three times as long, and comparisons with the real MLX half as long again.
test-search: $(DEV) system ## Searches for counterexamples, comparisons of exactness: some, or all of them (NIGHTLY=1)
	@$(ONE_THREAD) $(PYTEST) $(SEARCHES) -m exhaustive $(PARALLEL)

test-e2e: $(DEV) system ## Storms, kill -9, stuck readers
	@$(PYTEST) tests/e2e

# The other one of Python 3.11 and 3.13, or nothing. Looks in the other versions of pyenv too: its shims are on the PATH also where they lead nowhere.
OTHER = other=$$($(BIN)/python -c 'import sys; print("3.11" if sys.version_info >= (3, 13) else "3.13")'); \
	for found in python$$other $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$other*/bin/python$$other 2>/dev/null); do \
	  path=$$($$found -c 'import sys; print(sys.executable)' 2>/dev/null) && break; path=; \
	done
TOX   = PATH="$$(dirname $$path):$$PATH" $(BIN)/python -m tox -q run -e py$${other/./}

# Installs while checks run what `test-unit-other` needs.
other-python: $(DEV)
	@$(OTHER); [ -z "$$path" ] || $(TOX) --notest

test-unit-other: $(DEV) ## Each unit test once on the other one of Python 3.11 and 3.13, all cases with NIGHTLY=1
	@$(OTHER); \
	if [ -z "$$path" ]; then echo "Python $$other is not on this machine: its unit tests are left out"; exit 0; fi; \
	echo "unit tests on $$path"; \
	$(TOX)

coverage: $(DEV) ## The thresholds, over what the test targets have left behind
	@$(BIN)/coverage combine -q --keep --data-file=$(COVER)/total $(COVER)/unit $(COVER)/integration
	@$(REPORT) --fail-under=85
	@for gate in domain=95 application=85 adapters=70; do \
	  $(REPORT) --include="semantic_trio/$${gate%=*}/*" --fail-under=$${gate#*=} --format=total >/dev/null \
	    || { echo "semantic_trio/$${gate%=*} is below $${gate#*=} %"; exit 1; }; \
	done
	@$(REPORT) --include="$$(echo $(WATCHED:%=semantic_trio/%) | tr ' ' ',')" --fail-under=100 --show-missing --no-skip-covered \
	  || { echo "code that runs concurrently or evicts is below 100 %"; exit 1; }

ci: test licenses ## What CI runs for a change

all: dev-install ci security sbom ## Everything that needs no other machine and no hour

# -------------------------------------------------------------------------------------------------------------------------- check

lint: $(DEV) ## Style, docstrings, complexity
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff check --select C901 --config 'lint.mccabe.max-complexity=6' semantic_trio/domain
	@$(BIN)/ruff format --check $(SOURCES)

format: $(DEV) ## Repair what can be repaired
	@$(BIN)/ruff check --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

typecheck: $(DEV) ## mypy --strict
	@$(BIN)/mypy $(SOURCES)

imports: $(DEV) ## The direction of imports
	@$(BIN)/lint-imports --no-cache

docs: $(DEV) ## The manual, strictly, and the examples in docstrings
	@$(PYTEST) -q --no-header -p no:cacheprovider --doctest-modules $$(grep -rl --include='*.py' '>>> ' semantic_trio)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(DEV) ## The manual while it is being written
	@$(BIN)/mkdocs serve

# The functions that a reader has to think about longest. Above 9 (domain: 6) `make lint` fails.
complexity: $(DEV) ## Functions with a complexity above 5
	@$(BIN)/ruff check --exit-zero --quiet --output-format concise --select C901 --config 'lint.mccabe.max-complexity=5' semantic_trio

# Each tool has an environment of its own, made by pre-commit: codespell is GPL and semgrep LGPL, so they are not installed with the package's tools.
security: $(DEV) ## Spelling, secrets, large files, forbidden patterns, known vulnerabilities
	@for hook in codespell secrets large-files semgrep; do $(BIN)/pre-commit run $$hook --all-files --hook-stage pre-push || exit 1; done
	@found=$$($(BIN)/pip-audit --skip-editable --progress-spinner off 2>&1) || { echo "$$found"; exit 1; }; \
	unknown=$$(grep -c 'could not be audited' <<<"$$found") || { echo "no known vulnerabilities"; exit 0; }; \
	echo "$$unknown packages could not be audited: the package index in use does not tell their vulnerabilities"; exit 1

sbom: $(DEV) ## What the package consists of, as CycloneDX 1.6 (dist/sbom.json)
	@$(BIN)/python tools/sbom.py

licenses: $(DEV) ## Nothing GPL, LGPL, AGPL, SSPL or EUPL among what is installed
	@$(BIN)/pip-licenses --from=mixed --partial-match --fail-on='GPL;General Public;GNU;SSPL;Server Side Public;EUPL;European Union Public' --format=plain >/dev/null \
	  && echo "licences: fine"

bench: $(DEV) system ## Figures of the served model beside the bare engine (MODEL=, ARGS=)
	@$(BIN)/semantic-trio bench --model $(MODEL) $(ARGS)

# What the thresholds name and no more: a full run takes half an hour on two cores.
perf: $(DEV) system ## Ratios of the served model against tests/performance_thresholds.yaml, on a machine that does nothing else (BASELINE=benchmarks/baseline.json: write them)
	@mkdir -p build
	@$(BIN)/semantic-trio bench --full --streams 1,3,5,10 --tokens 32 --words 400 --contexts 2048 --rounds 2 --model smollm2-135m --json build/performance.json \
	  $(addprefix --compare ,$(wildcard benchmarks/baseline.json)) $(ARGS)
	@$(BIN)/python -m tests.performance build/performance.json $(addprefix --baseline ,$(BASELINE))

# The formula's sdist is the file beside it, until a release has an address.
dist: $(DEV) ## The wheel, the sdist and a Homebrew formula that builds from it, in dist/
	@$(BIN)/python -m hatchling build -d dist
	@sdist=$$(ls -t dist/semantic_trio-*.tar.gz | head -n 1); \
	sum=$$($(BIN)/python -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$$sdist"); \
	sed -e "s|@URL@|file://$(CURDIR)/$$sdist|" -e "s|@SHA256@|$$sum|" packaging/homebrew/semantic-trio.rb.in > dist/semantic-trio.rb
	@ls dist

clean: ## Everything that can be made again
	rm -rf $(VENV) $(COVER) .coverage .tox site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
