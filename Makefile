# `make help` lists what there is. Every target sets up .venv first (uv, from PATH or a private bootstrap).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Compiled once is enough: a container's setting against it costs each start of a service a second of processor time.
unexport PYTHONDONTWRITEBYTECODE

UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.bootstrap/bin/uv)
PYTHON := $(or $(shell command -v python3.11 2>/dev/null),python3)
STAMP := .venv/.set-up
BIN := .venv/bin
PROTOS := $(wildcard proto/nodeyard/rpc/v1/*.proto)
HELM := $(HOME)/.cache/nodeyard/tools/helm
PYTEST_ARGS ?=
# Test files at a time, the longest first (tests/conftest.py): one more than processors, since those on a real control plane
# wait for half of their time. A file's tests share its stand and keep their order.
WORKERS ?= 3

.PHONY: help setup demo down test unit test-aws helm lint types gen bench fmt

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (done by the others as needed)

.bootstrap/bin/uv:
	@echo "== uv is not on PATH: installing uv $(UV_VERSION) into .bootstrap"
	$(PYTHON) -m venv .bootstrap
	.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): pyproject.toml uv.lock | $(filter .bootstrap/bin/uv,$(UV))
	@echo "== installing Python packages into .venv"
	$(UV) sync --locked
	@touch $@

demo: $(STAMP) ## the main job on this machine, before your eyes (CI=1: unattended)
	$(BIN)/nodeyard local fetch > /dev/null
	$(BIN)/nodeyard demo $(if $(CI),--unattended)

down: $(STAMP) ## stop whatever `make demo` or `nodeyard local up` left running
	$(BIN)/nodeyard local down --all

test: $(STAMP) ## all tests, those on a real control plane included
	@echo "== the control plane's programs (built once, about 8 minutes on 2 cores)"
	$(BIN)/nodeyard local fetch
	@echo "== tests"
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 2 -m "not benchmark and not helm and not aws" $(PYTEST_ARGS)

unit: $(STAMP) ## only the tests that need no cluster
	$(BIN)/pytest -m "not benchmark and not helm and not aws and not cluster" $(PYTEST_ARGS)

test-aws: $(STAMP) ## reading calls and dry runs against your own AWS account; makes nothing, costs nothing
	$(BIN)/pytest -m aws tests/aws $(PYTEST_ARGS)

helm: $(STAMP) ## compare the chart with what Helm makes of it (builds Helm once, minutes)
	test -x $(HELM) || GOBIN=$(dir $(HELM)) go install helm.sh/helm/v3/cmd/helm@v3.19.0
	$(BIN)/pytest -m helm tests/unit/local/test_chart.py

lint: $(STAMP) ## ruff and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

gen: $(STAMP) ## make nodeyard/rpc/v1 anew from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
	  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

bench: $(STAMP) ## measure, and print the figures as tables
	$(BIN)/nodeyard local fetch
	$(BIN)/pytest -m benchmark -s tests/benchmark $(PYTEST_ARGS)

fmt: $(STAMP) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
