# The targets run in .venv. It is built once and brought up to date when a project file or constraints.txt changes.

BIN := .venv/bin
STAMP := .venv/.up-to-date
MEMBERS := shared $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
BENCHMARKS := $(filter-out $(addprefix benchmarks/,paired.py aggregator_peers.py local_federation.py),$(wildcard benchmarks/[a-z]*.py)) # those are what they share

# Another activated environment must not receive the packages, hence --python.
UV_INSTALL := $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs dist standalone gpu-check

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## build .venv with every package, editable, and the development tools

# An environment without its stamp was interrupted and may hold half a library, which uv takes for a whole one: it is
# built anew. Where uv itself gives up (no network), the environment is whole but old, and so is its stamp.
# The version is asked of the interpreter itself, because a command named python3.13 may be an empty shim.
# SHARED_BY_NAME: an editable shared and a package that requires its folder cannot be installed together.
$(STAMP): pyproject.toml constraints.txt $(MEMBERS:=/pyproject.toml)
	@test -e $@ && exit; \
	for python in python3.13 python3.12 python3.11 python3; do \
		$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "$$python -m venv --clear .venv"; exec $$python -m venv --clear .venv; \
	done; \
	echo "medley needs Python 3.11 or newer with its venv module, and none was found on the PATH." >&2; exit 1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@rm -f $@
	SHARED_BY_NAME=1 $(UV_INSTALL) --group dev $(MEMBERS:%=--editable ./%) || { touch -t 200001010000 $@; exit 1; }
	$(BIN)/python tools/check_imports.py
	@touch $@

demo: $(STAMP) ## run the main job of every package on its own data; ends with one page, runs/demo/report.html
	$(BIN)/fedsam fit --run.root runs/demo
	$(BIN)/fedsam test --run.root runs/demo
	$(BIN)/usssl pretrain --run.root runs/demo
	$(BIN)/usssl finetune --run.root runs/demo
	$(BIN)/finelip fit --run.root runs/demo
	$(BIN)/finelip test --run.root runs/demo
	$(BIN)/fedseca compare --out runs/demo/fedseca/compare -- --model.network.width 16
	$(BIN)/python tools/demo_report.py runs/demo

# A file of tests stays with one process, since its tests share what is costly to set up. A process grows to some 3 GB.
test: lint ## lint, then run the tests on all cores (ARGS="-k name" reaches pytest)
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# A smoke run must not write over recorded results.
RESULTS := $(if $(findstring --quick,$(ARGS)),build/benchmarks,benchmarks/results)

bench: $(STAMP) ## run every benchmark and write benchmarks/README.md (ARGS=--quick for a smoke run)
	$(UV_INSTALL) --group bench
	@set -e; for script in $(BENCHMARKS); do \
		echo "$$script"; $(BIN)/python $$script --out $(RESULTS)/$$(basename $$script .py).json $(ARGS); \
	done
	$(BIN)/python tools/benchmark_tables.py

docs: $(STAMP) ## build the documentation into build/docs; open build/docs/index.html
	$(UV_INSTALL) --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

dist: $(STAMP) ## build the wheels and source archives into dist/
	rm -rf dist
	$(BIN)/python tools/build_dist.py dist

standalone: dist ## install every package alone with plain pip, from the clone and from its wheel (ARGS=--uv is faster)
	$(BIN)/python tools/standalone.py $(ARGS)

# It needs no .venv: the interpreter with torch for the GPU of this machine runs it.
PYTHON ?= python3

gpu-check: ## tests, default jobs and benchmarks on a GPU, beside its own torch (PYTHON=..., GPU_WHEELS=DIR, ARGS=--quick)
	@command -v $(PYTHON) >/dev/null || { echo "PYTHON must be a command or a path of one, got $(PYTHON)" >&2; exit 2; }
	@$(PYTHON) tools/gpu_check.py $(if $(GPU_WHEELS),--wheels "$(GPU_WHEELS)") $(ARGS)
