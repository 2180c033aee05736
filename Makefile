# `make demo` shows the main job, `make test` proves it. Both install or build what they need and say what is missing.
SHELL := bash
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Watch a git push change agents on a real cluster (DEMO_ONCE=1: tell the story and end)
	@tests/demo/run

test: ## Run all tests, on real clusters too
	@tests/run

lint: ## Format, clippy, rustdoc, licences and advisories
	@tests/lint

chaos: ## Let everything fail at once for 20 minutes (SEED=, MINUTES=, AGENTS=, LIVE=: agents with a sidecar)
	@SEED=$(SEED) MINUTES=$(MINUTES) AGENTS=$(AGENTS) LIVE=$(LIVE) tests/chaos

bench: ## Measure; prints a table and writes target/bench.json (BENCH=name: one)
	@tests/bench/run

generate: ## Write crds/, the chart's copies and docs/reference anew
	@UPDATE=1 cargo test -q --test it crds::

clean: ## Remove what was built here (the cache of cluster programs stays: tests/cluster/cluster clean)
	@cargo clean

.PHONY: help demo test lint chaos bench generate clean
