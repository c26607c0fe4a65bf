# Everything that is done with this repository, here and in CI. `make` says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One folder for all that is built, so that no target builds twice what another has built.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# How many seeds `make sim` runs, and the first of them.
SEEDS ?= 2000
SEED ?=
# How often `make kills` kills.
KILLS ?= 100

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-9s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Build it and show what it does, live
	cargo run --release --quiet -- demo

.PHONY: test
test: lint doc unit api node page helm ## Everything that has to hold before a change goes in

.PHONY: unit
unit: ## Tests of the library, the program and its command line
	cargo test --quiet

.PHONY: api
api: ## Calls of every kind against docs/openapi.json; needs Python with venv. OFFLINE=1 leaves it out
	@if [ -n "$${OFFLINE:-}" ]; then echo "api: OFFLINE is set, calls against docs/openapi.json are not tested"; exit; fi; \
	python3 -c 'import ensurepip' || { echo "api: needs Python 3 with venv (Debian: python3-venv), or OFFLINE=1"; exit 1; }; \
	[ -x $(API_TOOLS)/bin/python ] || python3 -m venv $(API_TOOLS); \
	$(API_TOOLS)/bin/pip install --quiet --disable-pip-version-check -r tests/api/requirements.txt; \
	cargo build --quiet; \
	$(API_TOOLS)/bin/python tests/api/check.py $(CARGO_TARGET_DIR)/debug/seriatim

.PHONY: node
node: ## Tests of the Node.js package and examples, where Node.js is installed
	@if command -v node >/dev/null; then \
	  cargo build --quiet; \
	  npm --prefix sdk/node ci --silent; npm --prefix sdk/node test --silent; \
	  npm --prefix examples/node/sdk ci --silent; \
	  node --test examples/node/*.test.js examples/node/sdk/*.test.js examples/batch/*.test.js; \
	else echo "node: Node.js is not installed, nothing is tested here"; fi

.PHONY: kafka
kafka: ## Apache Kafka on this machine, to try things out; says what to put into the config, Ctrl-C ends it
	@scripts/kafka

.PHONY: page
page: ## Tests of the admin page, where Node.js and Chromium are installed
	@if command -v node >/dev/null && { command -v chromium || command -v "$${CHROMIUM:-}"; } >/dev/null; then \
	  cargo build --quiet; npm --prefix tests/page ci --silent; node --test tests/page/*.test.js; \
	else echo "page: Node.js or Chromium is not installed, nothing is tested here"; fi

# What `make api` installs, kept from one time to the next.
API_TOOLS := $(CARGO_TARGET_DIR)/api

# The version of Helm that is built where none is installed; Go keeps what it has built.
HELM_MODULE := helm.sh/helm/v3/cmd/helm@v3.22.0
HELM_TOOLS := $(CARGO_TARGET_DIR)/helm

.PHONY: helm
helm: ## Tests of the Helm chart and compose.yaml, where Helm or Go, and Python 3.11 with venv, are installed
	@helm=$$(command -v helm || echo $(HELM_TOOLS)/helm); \
	if ! { [ -x "$$helm" ] || command -v go >/dev/null; } || ! python3 -c 'import ensurepip, tomllib' 2>/dev/null; then \
	  echo "helm: Helm or Go, or Python 3.11 with venv, is not installed, CHART AND COMPOSE ARE NOT TESTED" >&2; exit; fi; \
	[ -x "$$helm" ] || GOBIN=$(HELM_TOOLS) go install $(HELM_MODULE); \
	[ -x $(HELM_TOOLS)/python/bin/python ] || python3 -m venv $(HELM_TOOLS)/python; \
	$(HELM_TOOLS)/python/bin/pip install --quiet --disable-pip-version-check -r helm/requirements.txt; \
	cargo build --quiet; \
	$(HELM_TOOLS)/python/bin/python helm/check.py "$$helm" $(CARGO_TARGET_DIR)/debug/seriatim

.PHONY: sim
sim: ## The whole pipeline under faults and virtual time: SEEDS=2000, or one to replay: SEED=42
	SEEDS=$(SEEDS) SEED=$(SEED) cargo test --release --test simulation -- --nocapture

.PHONY: kills
kills: ## Kill the real program 100 times under load, and look for what was lost, repeated or out of order
	cargo build --release --quiet
	SERIATIM=$(CARGO_TARGET_DIR)/release/seriatim node tests/kills/kills.mjs $(KILLS)

.PHONY: faults
faults: ## Faults on real Kafka that take minutes: many deaths, three brokers, comers and goers; KILLS=5 for fewer deaths
	cargo test --test kafka_engine --test kafka_pipeline --test kafka_faults -- --ignored --nocapture --test-threads=1

.PHONY: fuzz
fuzz: ## Fuzz framings and records for a minute each; needs nightly Rust and cargo-fuzz
	cargo +nightly fuzz run -s none framing -- -max_total_time=60
	cargo +nightly fuzz run -s none record -- -max_total_time=60

.PHONY: mutants
mutants: ## Show that the simulation catches what is broken on purpose
	tests/mutants/run

.PHONY: bench
bench: ## Benchmarks of the ordering core
	cargo bench

.PHONY: lint
lint: ## Formatting and lints
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt

.PHONY: doc
doc: ## The library's documentation
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --quiet

.PHONY: deny
deny: ## Licences, advisories and sources of dependencies; needs cargo-deny
	cargo deny check

.PHONY: docs
docs: ## Write the generated pages of docs/ anew
	UPDATE=1 cargo test --lib --quiet reference_page
