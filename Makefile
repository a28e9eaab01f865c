# Needs cargo with a C compiler, python3 and make; the rest is installed into .tools on first use.

PROGRAM := $(or $(CARGO_TARGET_DIR),target)/release/nats-sql-sink
STAND_IN := $(or $(CARGO_TARGET_DIR),target)/debug/examples/stand_in
FAULT_TESTS := $(or $(CARGO_TARGET_DIR),target)/release/fault-tests
LOAD_TESTS := $(or $(CARGO_TARGET_DIR),target)/release/load-tests
FUZZ := $(or $(CARGO_TARGET_DIR),target)/debug/examples/fuzz
DEBUG_PROGRAM := $(or $(CARGO_TARGET_DIR),target)/debug/nats-sql-sink
TOOLS := $(CURDIR)/.tools
# where the peers find what they are made of
PEERS_ENVIRONMENT := PYTHONPATH=$(TOOLS)/peers/python:$(TOOLS)/clients NODE_PATH=$(TOOLS)/peers/node/node_modules
export PATH := $(TOOLS)/bin:$(TOOLS)/linters/bin:$(PATH):$(TOOLS)/node/bin

# "ci" reports less and runs on after a failure
NEXTEST_PROFILE := $(if $(CI),ci,default)

.DEFAULT_GOAL := help
INPUTS ?= 10000000
# chaos takes a seed by chance where none is given
CHAOS_SEED := $(SEED)
SEED ?= 1

.PHONY: help demo test test-outage test-canaries test-clients test-peers test-faults fault-programs chaos load-test compare micro bench-stand-in fuzz lint fmt clean tools clients peers needs

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

demo: tools ## the whole thing on this machine; ARGS="--events 1000000 --report json" is passed on
	cargo build --release --locked
	$(PROGRAM) demo $(ARGS)

test: tools clients ## every test, against a real nats-server and a real PostgreSQL
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace --locked --profile $(NEXTEST_PROFILE); \
	else \
		set -x; cargo test --workspace --locked --lib --bins --tests $(if $(CI),--no-fail-fast); \
	fi
	cargo test --workspace --locked --doc --quiet

test-outage: tools ## the database away for 5 minutes, with a backlog of 1,000,000 events
	cargo test --locked --test sink -- --ignored --exact --nocapture outage::long_an_outage_of_five_minutes_redelivers_nothing

test-canaries: tools ## no secret and no row in what workers log at the loudest, in metrics or dead letters: every test of the sink
	NATS_SQL_SINK_TEST_CANARIES=1 cargo test --locked --test sink

test-clients: tools clients ## SQL clients that others wrote, against the local stack's SQL server: a matrix
	@python3 scripts/tools.py node
	cargo build --package local-stack --locked --examples
	PYTHONPATH=$(TOOLS)/clients NODE_PATH=$(TOOLS)/tedious/node_modules TIBERIUS_CLIENT=$(dir $(STAND_IN))tiberius_client \
		python3 local-stack/clients/matrix.py $(STAND_IN) mssql-python pymssql python-tds tedious tiberius

test-peers: tools peers ## what the sink is compared with (load-tests/peers) does the same work: row by row, against the local stack
	cargo build --locked --bin nats-sql-sink
	$(PEERS_ENVIRONMENT) python3 load-tests/peers/check.py $(DEBUG_PROGRAM) $(ARGS)
	cargo test --package load-tests --locked --test compare -- --ignored

micro: needs ## what each stage costs alone, in processor time; ARGS="decode" for one of them
	cargo bench --locked --bench micro -- $(ARGS)

bench-stand-in: tools ## rows a second of the local stack's SQL server beside the sink's writer; ARGS="--report json"
	cargo bench --locked --bench stand_in -- $(ARGS)

# the debug build, which checks arithmetic
fuzz: tools ## mutated messages against the local stack's SQL server; INPUTS=10000000 SECONDS=600 SEED=1
	cargo build --package local-stack --locked --example fuzz
	$(FUZZ) --inputs $(INPUTS) --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS))
	$(FUZZ) --sessions --inputs $(INPUTS) --seed $(SEED) --seconds $(or $(SECONDS),120)

# the workers that are tested, and what tests them, side by side in one folder
fault-programs: tools
	cargo build --release --locked --package nats-sql-sink --package fault-tests --features test-hooks

test-faults: fault-programs ## workers under load through every fault, into docs/reliability.md; ARGS="--only worker-sigkill"
	$(FAULT_TESTS) table $(or $(ARGS),--report docs/reliability.md)

chaos: fault-programs ## faults at random moments; SEED=7 SECONDS=60 reproduces, SEEDS=20 runs so many from there on
	$(FAULT_TESTS) chaos $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

load-test: tools ## workers under load as a scenario describes it; SCENARIO=steady ARGS="--repeat 5"
	@test -n "$(SCENARIO)" || { echo "error: name a scenario: make load-test SCENARIO=steady; docs/load-tests.md lists them" >&2; exit 1; }
	cargo build --release --locked --package nats-sql-sink --package load-tests
	$(LOAD_TESTS) $(if $(filter baseline,$(SCENARIO)),baseline,run $(SCENARIO)) $(ARGS)

compare: tools peers ## the sink beside other programs that do its work; ARGS="--repeat 5 --round-trip 5ms"
	cargo build --release --locked --package nats-sql-sink --package load-tests
	$(LOAD_TESTS) compare $(ARGS)

lint: needs ## formatting, clippy, licences and sources of the dependencies, deployment files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package nats-sql-sink --no-default-features --locked -- -D warnings
	@python3 scripts/tools.py linters
	cargo deny --workspace --log-level error check bans licenses sources
	PYTHONPATH=$(TOOLS)/linters python3 -m yamllint --strict compose.yaml deploy
	hadolint Dockerfile

fmt: ## format the code
	cargo fmt --all

clean: ## remove what was built, and the installed tools
	cargo clean
	rm -rf $(TOOLS)

tools: needs ## install nats-server and PostgreSQL into .tools
	@python3 scripts/tools.py servers

peers: needs
	@python3 scripts/tools.py peers

clients: needs
	@python3 scripts/tools.py clients

needs:
	@command -v cargo >/dev/null || { echo "error: cargo is missing: install Rust (rustup), then run make again" >&2; exit 1; }
	@command -v python3 >/dev/null || { echo "error: python3 is missing: install it, then run make again" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "error: a C compiler (cc) is missing: install gcc or clang, then run make again" >&2; exit 1; }
