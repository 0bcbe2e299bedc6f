# One word for each thing that a developer does. `make setup` leaves a ready .venv/; everything else makes it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-fast lint types bench bench-serve profile-serve soak docs proto lock environments clean
setup: $(READY)

# The lock first, so that torch is the one that was locked; then Headway itself, which adds nothing to it.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python scripts/demo.py

# On every core, a file's tests on one; then what measures, with nothing beside it.
test: setup
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not alone"
	$(BIN)/pytest -m alone

test-fast: setup
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not alone"

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

# Minutes to hours; writes benchmarks/RESULTS.md.
bench: setup
	$(BIN)/python -m benchmarks.ship
	$(BIN)/python -m benchmarks.overlap
	$(BIN)/python -m benchmarks.cache
	$(BIN)/python -m benchmarks.swap

# 25 minutes; beside other servers, each in an environment of its own, made on first use. Needs wrk and two cores.
bench-serve: setup
	$(BIN)/python -m benchmarks.serving.bench $(ARGS)

# A minute; writes docs/serving-profile.md.
profile-serve: setup
	$(BIN)/python -m benchmarks.serving.stages $(ARGS)

# 30 minutes; ARGS="--minutes 5" for fewer.
soak: setup
	$(BIN)/python -m benchmarks.serving.soak $(ARGS)

docs: setup
	$(BIN)/python scripts/recipe_reference.py
	$(BIN)/python scripts/serving_reference.py
	$(BIN)/python scripts/observability_reference.py
	$(BIN)/python scripts/grafana_dashboard.py

PROTO := src/headway/serve/proto
proto: setup
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(PROTO) --descriptor_set_out=$(PROTO)/descriptors.binpb inference.proto health.proto

# The same pip that installs also resolves, so that it finds torch where this machine has it.
lock: setup
	$(BIN)/pip-compile --quiet --strip-extras --all-extras --no-emit-index-url --no-emit-find-links --no-emit-options \
		--allow-unsafe --no-annotate --no-header --resolver backtracking --constraint constraints.txt \
		--output-file requirements.lock pyproject.toml
	sed -i -e 's/+cpu$$//' -e '1i # Made by `make lock`; do not edit.' requirements.lock

# The locks of environments that are made on first use, from what their .in files ask for.
ENVIRONMENTS := src/headway/export/environments
environments: setup
	for name in $(basename $(notdir $(wildcard $(ENVIRONMENTS)/*.in))); do \
		$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
			--no-emit-options --no-annotate --no-header --allow-unsafe \
			--output-file $(ENVIRONMENTS)/$$name.txt $(ENVIRONMENTS)/$$name.in && \
		sed -i '1i # Made by `make environments`; do not edit.' $(ENVIRONMENTS)/$$name.txt || exit 1; done

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache
