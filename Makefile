# The one set of commands: people, CI and hooks all call these. `make` alone lists them.

PYTHON ?= python3## the Python (3.11 to 3.13) that .venv is made with
RECIPE ?= recipes/tutorial.env## the settings of `train*`; variables that are set already win
DATA ?= data## the folder that `train-gpu` and `train-container` let the container read, as data/
BUNDLE ?= artifacts/latest## the bundle that `serve*` serve
CONTAINER_ENGINE ?= docker## docker or podman
IMAGE ?= bowsprit## the name of the image that trains; the one that serves is called IMAGE-serve
GPU_FLAGS ?= $(if $(PODMAN),--device nvidia.com/gpu=all,--gpus all)## how the engine passes the GPUs on
BUILD_FLAGS ?=## more flags for the engine's build, such as --build-arg BASE_IMAGE=...
RUN_FLAGS ?=## more flags for the engine's run, such as --memory 8g

BENCHMARK ?=## what `benchmark` is asked for: --help lists it
BENCHMARK_SERVING ?=## what `benchmark-serving` is asked for: --help lists it
DATA_SETS ?=## what `options` measures on: name=train.tsv or name=train.tsv,validation.tsv, one or more

# Also where podman answers to the name docker.
PODMAN = $(findstring podman,$(shell $(CONTAINER_ENGINE) --version 2>/dev/null))
# Podman without root is root's equal inside: keep-id makes the calling user the same there and here.
PODMAN_FLAGS = --security-opt label=disable $(if $(filter-out 0,$(shell id -u)),--userns=keep-id)
# What the driver shows, on Linux and in WSL.
GPU = $(wildcard /dev/nvidiactl /dev/dxg)
# OCI's kind of image, podman's default, has no health check.
BUILD = $(CONTAINER_ENGINE) build $(if $(PODMAN),--format docker) $(BUILD_FLAGS) --file Dockerfile.cuda \
  --build-arg VERSION=$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BIN = .venv/bin
STAMP = .venv/.installed
READ_RECIPE = . recipes/read.sh && read_recipe "$(RECIPE)" || exit 2

.PHONY: help setup train train-gpu train-container serve serve-container image image-serve sbom recipe bundle engine gpu test test-system test-kills benchmark benchmark-serving options profile lint format types docs clean
.DELETE_ON_ERROR:

help: ## List the commands and the variables that change them
	@awk -F ' ?## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-17s  %s\n", $$1, $$2 }' Makefile
	@echo
	@awk -F '## ' '/^[A-Z_]+ \?=.*## / { split($$1, name, " "); printf "  %-23s %s\n", name[1], $$2 }' Makefile

setup: $(STAMP) ## Install everything into .venv, once

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make setup PYTHON=python3.12" >&2; \
	  exit 2; }
	@echo "Installing into .venv, once; torch is large, so this takes some minutes ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q -c constraints.txt setuptools
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[train,dev]'
	@touch $@

# A variable that is set already wins over the recipe, and the recipe over what is set here.
train: recipe setup ## Train RECIPE here: on the GPU if there is one, else on the CPU
	@$(READ_RECIPE); \
	export BOW_OVERWRITE="$${BOW_OVERWRITE-true}" BOW_LOG_FORMAT="$${BOW_LOG_FORMAT-console}"; \
	exec $(BIN)/python -m job

train-gpu: DEVICE_FLAGS = $(if $(GPU),$(GPU_FLAGS) --env NVIDIA_VISIBLE_DEVICES=all)
train-gpu: ## Train RECIPE in a container, on the GPU
train-container: export BOW_DEVICE = cpu
train-container: export BOW_REQUIRE_GPU = false
train-container: ## Train RECIPE in a container, on the CPU
train-gpu train-container: recipe gpu image
	@mkdir -p artifacts
	@$(READ_RECIPE); \
	export BOW_OVERWRITE="$${BOW_OVERWRITE-true}" BOW_REQUIRE_GPU="$${BOW_REQUIRE_GPU-true}"; \
	$(CONTAINER_ENGINE) run --rm $$(test -t 0 && test -t 1 && echo --interactive --tty) $(DEVICE_FLAGS) \
	  --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
	  $(if $(PODMAN),$(PODMAN_FLAGS)) --user "$$(id -u):$$(id -g)" --env HOME=/tmp \
	  --env-file "$(RECIPE)" $$(env | sed -n 's/^\(BOW_[A-Z_]*\)=.*/--env \1/p') \
	  $(if $(wildcard $(DATA)),--volume "$(abspath $(DATA)):/work/data:ro") \
	  --volume "$(CURDIR)/artifacts:/work/artifacts" \
	  $(RUN_FLAGS) $(IMAGE) || { code=$$?; case $$code in 125|126|127) \
	  echo "make: $(CONTAINER_ENGINE) could not start the container, and said why above;$(if $(DEVICE_FLAGS), \
	    for a GPU it needs the NVIDIA container toolkit;) without a container: make train" >&2 ;; esac; exit $$code; }

serve: bundle setup ## Serve BUNDLE here, with settings from BOW_SERVE_* variables
	@exec $(BIN)/python -m serving serve "$(BUNDLE)"

# Inside, the port is always 8080; here it is that of the variable.
serve-container: bundle image-serve ## Serve BUNDLE, which is in artifacts/, in a container
	@$(CONTAINER_ENGINE) run --rm $$(test -t 0 && test -t 1 && echo --interactive --tty) \
	  --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
	  $(if $(PODMAN),$(PODMAN_FLAGS)) --user "$$(id -u):$$(id -g)" \
	  $$(env | sed -n 's/^\(BOW_SERVE_[A-Z_]*\)=.*/--env \1/p') \
	  --env BOW_SERVE_HOST=0.0.0.0 --env BOW_SERVE_PORT=8080 --publish "127.0.0.1:$${BOW_SERVE_PORT:-8080}:8080" \
	  --volume "$(CURDIR)/artifacts:/work/artifacts:ro" $(RUN_FLAGS) $(IMAGE)-serve serve "$(BUNDLE)"

image: engine ## Build the image that trains
	@$(BUILD) --target train --tag $(IMAGE) .

image-serve: engine ## Build the image that serves and verifies bundles
	@$(BUILD) --target serve --tag $(IMAGE)-serve .

sbom: engine ## Write what is inside both images to sbom/, as CycloneDX
	@mkdir -p sbom
	@$(BUILD) --target sbom --output type=local,dest=sbom .

recipe:
	@test -r "$(RECIPE)" || { echo "make: there is no recipe $(RECIPE); name a file of NAME=VALUE lines: RECIPE=..." >&2; exit 2; }
	@$(READ_RECIPE)

# Asked before anything is installed or built, which takes minutes.
bundle:
	@case "$(BUNDLE)" in *://*) ;; *) test -e "$(BUNDLE)" || { \
	  echo "make: there is no bundle $(BUNDLE); make one (make train), or name another: BUNDLE=..." >&2; exit 2; } ;; esac

engine:
	@command -v $(CONTAINER_ENGINE) >/dev/null || { \
	  echo "make: $(CONTAINER_ENGINE) is not installed; install it, or name another engine, such as" \
	    "CONTAINER_ENGINE=podman; without a container: make train" >&2; exit 2; }
	@said=$$($(CONTAINER_ENGINE) info 2>&1 >/dev/null) || { \
	  echo "make: $(CONTAINER_ENGINE) is installed but cannot be used ($$(echo "$$said" | tail -n 1));" \
	    "start it, or name another engine, such as CONTAINER_ENGINE=podman; without a container: make train" >&2; exit 2; }

# Asked before the image is built, which takes minutes.
gpu: engine
	@$(READ_RECIPE); test -n "$(GPU)" || test "$$BOW_REQUIRE_GPU" = false || { \
	  echo "make: there is no NVIDIA GPU here, or its driver is missing (no /dev/nvidiactl); to train on the CPU:" \
	    "make train-container, or BOW_REQUIRE_GPU=false make train-gpu" >&2; exit 2; }

test: setup ## Run the tests
	@$(BIN)/pytest

test-system: setup ## Run the tests that take long, or install real parts: servers, clusters, other runtimes
	@$(BIN)/pytest -m system

test-kills: setup ## Kill a run at 50 moments, and see what it ends with; takes some minutes
	@KILLS=50 $(BIN)/pytest -m system tests/system/test_killed_runs.py

benchmark: setup ## Compare with fastText, Vowpal Wabbit and scikit-learn; takes some minutes
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[train,dev,benchmark]'
	@$(BIN)/python -m benchmarks $(BENCHMARK)

benchmark-serving: setup ## Compare our server with the KServe SDK's and mlserver's; takes some minutes
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[train,dev,benchmark]'
	@$(BIN)/python -m benchmarks.serving $(BENCHMARK_SERVING)

options: setup ## Measure what each option for features gives, on DATA_SETS, into docs/features.md
	@$(BIN)/python -m benchmarks.options $(DATA_SETS)

profile: recipe setup ## Train RECIPE and show where the time went, stage by stage
	@$(READ_RECIPE); exec $(BIN)/python -m benchmarks.profile

lint: setup ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/hadolint Dockerfile.cuda

format: setup ## Format the code, and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup ## Check the types
	@$(BIN)/mypy

docs: setup ## Write the README's tables anew from the code
	@$(BIN)/python -m tests.documents

clean: ## Remove .venv and every cache; trained models in artifacts/ stay
	rm -rf .venv build sbom *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
