# The only entry point: people and CI run the same targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help deps build up down clean test loss abuse fuzz check audit bench-write bench-gateway bench-rebalance bench-alerts k8s-check settings

export PATH := $(HOME)/.cargo/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
IOTCTL := $(TARGET)/debug/iotctl
CARGO_DENY := 0.20.2
# Optimises what is fuzzed and leaves its checks for overflow and its debug assertions in.
FUZZ_SPEED := --config profile.dev.package.gateway.opt-level=3 --config profile.dev.package.schema.opt-level=3 --config profile.dev.package.rules.opt-level=3

help: ## Shows this list
	@echo 'Fieldline: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Installs the Debian packages that are missing; changes nothing when all are there
	@sh iotctl/install-deps.sh

build: deps ## Builds every service and iotctl
	cargo build --locked --workspace --bins

up: build ## Starts the whole platform with a simulator and keeps it running until Ctrl-C; ARGS="--with lake-svc" for Parquet files, too
	@$(IOTCTL) up $(ARGS)

down: ## Stops a platform that `make up` runs in another terminal
	@if [ -x $(IOTCTL) ]; then $(IOTCTL) down; fi

clean: ## Stops it and forgets its certificates, databases, topics and logs
	@if [ -x $(IOTCTL) ]; then $(IOTCTL) clean; else rm -rf .fieldline; fi

test: build ## Runs every test against servers that it starts itself
	$(IOTCTL) servers run -- cargo test --locked --workspace

loss: build ## Sends 200 devices through four faults and prints what was acknowledged and what is stored
	$(IOTCTL) servers run -- cargo test --locked -p e2e --test e2e -- --nocapture loss::

abuse: build ## Lets one hostile device of each kind loose beside 200 good ones and prints what those notice, in ABUSE_ROUNDS=3 of ABUSE_SECONDS=10, on optimised builds; then STRANGERS=100000 at every port
	cargo build --locked --release -p gateway -p command-svc -p device-svc -p threshold-svc -p cdc-svc -p alerting-svc -p query-svc
	PROGRAMS=$(abspath $(TARGET))/release ABUSE_DEVICES=200 ABUSE_SECONDS=$(or $(ABUSE_SECONDS),10) ABUSE_ROUNDS=$(or $(ABUSE_ROUNDS),3) $(IOTCTL) servers run -- \
	  cargo test --locked -p e2e --test e2e -- --nocapture abuse::
	STRANGERS=$(or $(STRANGERS),100000) $(IOTCTL) servers run -- \
	  cargo test --locked -p e2e -p gateway --tests -- --nocapture strangers::

# Coverage-guided fuzzing needs a nightly compiler; this is mutational, from a corpus, by generators that know the formats.
fuzz: build ## Fuzzes the MQTT codec, every decoder, whole sessions and the evaluator of rules, FUZZ_SECONDS=60 for each, with new rounds each time
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) FUZZ_FROM=$$(date +%s)000000000 $(IOTCTL) servers run -- \
	  cargo test --locked $(FUZZ_SPEED) -p gateway -p rules fuzz -- --nocapture --test-threads 1

check: deps ## Checks form: fmt, clippy, the rules of form, dependencies, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --test form
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny --version $(CARGO_DENY)
	cargo deny --locked check bans licenses sources
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items

audit: ## Looks for published vulnerabilities in the dependencies; needs the network
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny --version $(CARGO_DENY)
	cargo deny --locked check advisories

settings: ## Writes docs/settings.md from what the services say of themselves
	cargo build --locked --workspace --bins
	WRITE_DOCS=1 cargo test --locked --workspace --test e2e -- settings::page

k8s-check: ## Builds every overlay of k8s/ and holds it against Kubernetes' types and the services; needs go and node
	@sh k8s/check/run.sh $(TARGET)/k8s-check

bench-write: deps ## Measures the write side beside its limits and its peers; ARGS="--rows 500000 --rounds 1" for a short run
	cargo build --locked --release -p command-svc -p bench -p iotctl
	$(TARGET)/release/iotctl servers run --durable --postgres-setting shared_buffers=1GB -- $(TARGET)/release/bench-write $(ARGS)

bench-gateway: deps ## Measures the gateway beside a bare producer; ARGS="--messages 100000 --rounds 1 --idle 500" for a short run
	cargo build --locked --release -p gateway -p bench -p iotctl
	$(TARGET)/release/iotctl servers run -- $(TARGET)/release/bench-gateway $(ARGS)

bench-rebalance: deps ## Restarts three instances of each consumer one by one under 20,000 readings/s; ARGS="--programs FOLDER --label NAME" for another build
	cargo build --locked --release -p command-svc -p alerting-svc -p bench -p iotctl
	$(TARGET)/release/iotctl servers run -- $(TARGET)/release/bench-rebalance $(ARGS)

bench-alerts: deps ## Measures alerting-svc beside bare consumption and Kafka Streams; ARGS="--sensors 1000 --readings 200000 --rounds 1 --rules 10000" for a short run
	cargo build --locked --release -p alerting-svc -p bench -p iotctl
	$(TARGET)/release/iotctl servers run -- $(TARGET)/release/bench-alerts $(ARGS)
