# The promises: `make demo`, `make test` and `make check` need nothing but Python 3.11 or newer; `make test-cluster` needs Go, too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The programs of the cluster tests; Go's build cache makes a second build fast.
TOOLS := tools/bin/.built
# What was tested together; an installed set is kept until one of these files changes.
INSTALLED := $(VENV)/.installed

.PHONY: help demo demo-cluster test check fuzz fuzz-launch bench-packing bench-packing-speed bench-packing-batch bench-shopping bench-slices2d tools test-cluster soak-reflector format clean

help: ## Show this list.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(INSTALLED) ## Give the same pods to three modes on a simulated cloud and cluster, side by side.
	$(BIN)/python -m tfscale simulate examples/three-modes.yaml

test: $(INSTALLED) ## Run the whole default test suite.
	$(BIN)/python -m pytest -n 2 --ignore tests/cluster

fuzz: $(INSTALLED) ## Run the properties of the whole loop on 20 times as many random scenarios.
	TFSCALE_FUZZ=20 HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -n 2 tests/test_reconcile.py tests/test_simulated.py tests/test_three_modes.py

# How many schedules, and which.
N ?= 10000
SEED ?= 0

# What buys: ec2, managed or reuse. On EC2 some of the schedules are on moto, too.
MODE ?= ec2

fuzz-launch: $(INSTALLED) ## Buy machines through N random schedules of crashes, lost replies and interference, in one MODE.
	$(if $(filter ec2,$(MODE)),$(BIN)/python -m tests.fuzz.launch --cloud moto --schedules 200 --seed $(SEED))
	$(BIN)/python -m tests.fuzz.launch --mode $(MODE) --schedules $(N) --seed $(SEED)

bench-packing: $(INSTALLED) ## Pack the public openb trace, 12 variants x 10 seeds, beside FGD and others; half an hour.
	OMP_NUM_THREADS=1 $(BIN)/python bench/packing_table.py --write bench/results/packing.md
	OMP_NUM_THREADS=1 $(BIN)/python bench/packing_plots.py

bench-packing-batch: $(INSTALLED) ## Pack the same trace in batches of 500, beside one pod at a time.
	OMP_NUM_THREADS=1 $(BIN)/python bench/packing_batch.py

bench-shopping: $(INSTALLED) ## Buy the cheapest nodes for all pods of the openb trace, beside bounds and first fit; a minute.
	OMP_NUM_THREADS=1 $(BIN)/python bench/shopping.py --placements $(or $(PLACEMENTS),/dev/null)

bench-slices2d: $(INSTALLED) ## Pack slices of VRAM and compute with every policy; write bench/results/slices2d.md.
	OMP_NUM_THREADS=1 $(BIN)/python bench/slices2d_table.py --write

tools: $(TOOLS) ## Build a real control plane, Karpenter and kwok into tools/bin. Needs Go.

test-cluster: $(INSTALLED) ## Run the tests that need a real control plane; without Go they are skipped.
	@if PATH="$$PATH:/usr/local/go/bin" command -v go > /dev/null; then $(MAKE) tools; fi
	$(BIN)/python -m pytest tests/cluster/test_contract.py
	$(BIN)/python -m pytest -n 3 --dist loadfile --ignore tests/cluster/test_contract.py tests/cluster

soak-reflector: $(INSTALLED) $(TOOLS) ## Follow a real API server through 10 minutes of random faults. Needs Go.
	$(BIN)/python -m tests.cluster.soak_reflector --seconds 600

demo-cluster: $(INSTALLED) $(TOOLS) ## Run the demo's pods on a real control plane with the real Karpenter. Needs Go.
	$(BIN)/python -m tests.cluster.demo

bench-packing-speed: $(INSTALLED) ## Measure decisions per second and memory of the packer, up to 100,000 GPUs.
	$(BIN)/python bench/packing_speed.py

check: $(INSTALLED) ## Lint, format, types, import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Apply the formatter and the safe fixes.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(TOOLS): tools/build.sh $(wildcard tools/*/go.mod tools/*/go.sum)
	tools/build.sh
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tfscale needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
