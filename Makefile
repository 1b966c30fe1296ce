# The two commands of a fresh machine are `make quickstart` and `make test`; `make` alone lists all of them.

SHELL := bash
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# Tools that scripts/tools.sh built are looked for after everything else.
export PATH := $(PATH):$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wattle/tools/bin

FUZZ_CASES ?= 2000000

step := @scripts/step.sh

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-docker lint bench bench-llm fuzz docs setup setup-build setup-test
# The steps of a target print one after another, whatever -j says.
.NOTPARALLEL:

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

quickstart: setup-build ## Build the release binary and watch it train, store, deploy, call and meter
	$(step) "build the release binary" cargo build --release --locked --package wattle
	@"$(CARGO_TARGET_DIR)/release/wattle" quickstart

test: setup-test lint ## Check everything: lint, drift of generated files, all tests
	$(step) "build the tests" cargo nextest run --workspace --locked --no-run
	$(step) "generated files" scripts/docs.sh --check
	$(step) "doc tests" cargo test --quiet --doc --workspace --locked
ifneq ($(wildcard tests/python/test_*.py),)
	$(step) "python tests" scripts/test_python.sh
endif
	$(step) "tests" cargo nextest run --workspace --locked --no-fail-fast
	@if scripts/docker.sh --possible; then $(MAKE) --no-print-directory test-docker; fi

test-docker: setup-test ## Run containers of our images in a Docker Engine, in one of its own where there is none
	$(step) "a docker engine and a registry" scripts/setup.sh docker
	$(step) "docker tests" scripts/docker.sh cargo nextest run --package wattle --locked --no-fail-fast --run-ignored only -E 'test(docker::)'

lint: setup-test ## Check format, edges between crates, dependencies, and clippy
	$(step) "format" cargo fmt --all --check
	$(step) "edges between crates" scripts/edges.py
	$(step) "unused dependencies" cargo machete --skip-target-dir
	$(step) "dependency policy" cargo deny --log-level error check bans licenses sources
	$(step) "clippy" cargo clippy --quiet --workspace --all-targets --locked -- -D warnings

bench: setup-build ## Measure training, a table larger than memory, and serving, each beside its peers
	$(step) "setup" scripts/setup.sh bench
	$(step) "build the release binaries" cargo build --release --locked --package wattle --package wattle-api --bins
	$(step) "training" bash -c '"$$(scripts/venv.sh bench)" scripts/bench_train.py'
	$(step) "streaming" python3 scripts/bench_streaming.py 5 "$(CARGO_TARGET_DIR)/release/wattle"
	$(step) "serving" bash -c '"$$(scripts/venv.sh bench)" scripts/bench_serving.py'

bench-llm: setup-build ## Measure language models beside llama.cpp's own server
	$(step) "setup" scripts/setup.sh bench
	$(step) "build the release binary" cargo build --release --locked --package wattle
	$(step) "build the peer" scripts/llama_server.sh
	$(step) "language" bash -c '"$$(scripts/venv.sh bench)" scripts/bench_llm.py --llama-server "$$(scripts/llama_server.sh)"'

fuzz: setup-test ## Read random and nearly right bodies, files and settings for long (FUZZ_CASES each)
	$(step) "fuzz" env PROPTEST_CASES=$(FUZZ_CASES) cargo nextest run --workspace --locked --no-fail-fast -E 'test(fuzz)'

docs: setup-build ## Write the generated pages of docs/ again
	$(step) "build" cargo build --locked --package wattle
	$(step) "generated files" scripts/docs.sh

setup: setup-build setup-test ## Install what the build and the tests need

setup-build:
	$(step) "setup" scripts/setup.sh
	$(step) "onnxruntime" scripts/onnxruntime.sh
	$(step) "what compiles llama.cpp" scripts/llama.sh

setup-test: setup-build
	$(step) "rustfmt and clippy" scripts/setup.sh test
	$(step) "a model of embeddings" scripts/minilm.sh
	$(step) "tools" scripts/tools.sh cargo-deny cargo-machete cargo-nextest
