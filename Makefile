# Podwire's entry points. Each sets up what it needs, and is quick when that is there.
PODWIRE := .venv/bin/podwire
PYTEST := .venv/bin/pytest
# of the labs' tests, those that are run on genuine Kubernetes each time: what concerns the network; `make soak` has all
CORE := tests/seeds $(addprefix tests/lab/test_,network.py hostports.py kubenet.py hostlocal.py)

# (what each does: make help)
.PHONY: lab kubectl kubernetes test test-kubernetes soak check format bench setup clean help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 17

setup:
	@tools/setup

lab: setup ## a 3-node cluster on this machine, a web app on it, and the proof that its network is flat
	@$(PODWIRE) lab demo

kubectl: ## a kubectl where none is, built once into the cache and linked into .venv/bin
	@tools/setup test
	@ln -sfn "$$(tools/setup kubectl)" .venv/bin/kubectl

test: ## all tests, on a machine with nothing prepared
	@tools/setup test
	@tools/setup conformance
	@tools/run-tests

kubernetes: setup ## the programs of a genuine cluster, built from Go modules into the cache (minutes, once)
	@tests/kubernetes/build >/dev/null

test-kubernetes: ## the tests on a genuine cluster and under today's containerd, all built here
	@tools/setup test
	@tools/setup conformance
	@tests/kubernetes/build >/dev/null
	@tools/run-tests tests/kubernetes -m "not soak"
	@tools/run-tests $(CORE) --home kubernetes

soak: ## the long runs on a genuine cluster: outages, kills, every network test of Kubernetes, every test of labs (hours)
	@tools/setup test
	@tools/setup conformance
	@tests/kubernetes/build >/dev/null
	@tools/run-tests tests/kubernetes -m soak
	@tools/run-tests tests/lab --home kubernetes

check: setup ## format, lint, types
	.venv/bin/ruff format --check podwire tests tools bench
	.venv/bin/ruff check podwire tests tools bench
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format podwire tests tools bench
	.venv/bin/ruff check --fix podwire tests tools bench

bench: setup ## the lab's and the API server's figures, as JSON in build/bench/
	@mkdir -p build/bench
	$(PODWIRE) bench lab --json build/bench/lab.json
	$(PODWIRE) bench pod --json build/bench/pod.json
	$(PODWIRE) bench api --json build/bench/api.json

clean: ## remove what make made here (not the cache, not running labs)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find podwire tests -name __pycache__ -type d -prune -exec rm -rf {} +
