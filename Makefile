# Everything a person does here. `make` lists it; what it does is in tests/, manifests/ and charts/.

CLUSTER := tests/cluster/cluster
CACHE := $(or $(KONDUCTOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/konductor)
export CARGO_TARGET_DIR ?= $(CACHE)/target

.DEFAULT_GOAL := help
.PHONY: help demo test sim fuzz faults bench cluster cluster-down kubeconfig image manifests deny clean-cache

help: ## this list
	@echo 'make TARGET, where TARGET is:'
	@sed -n 's/^\([a-z-]*\):.*## /\1:/p' $(MAKEFILE_LIST) | awk -F: '{ printf "  %-14s%s\n", $$1, substr($$0, length($$1) + 2) }'
	@echo 'The first build takes up to half an hour on 2 cores; everything is kept in $(CACHE).'

demo: ## start a cluster, install konductor, run the examples and judge what happened (KONDUCTOR_CONTEXT=name KONDUCTOR_IMAGE=image: on that cluster)
	@tests/demo/run

test: ## every test but `deny`, on a real cluster (ONLY="lints unit": those steps; KEEP=1: leave the cluster running)
	@tests/run

sim: ## thousands of simulated runs in which everything fails (SEEDS=20000: more of them; SEED=17: that one again, BUG=name: with a planted bug)
	@tests/simulate

fuzz: ## hostile input, for long (SECONDS=600: so long for each target; TARGET=review: only that one)
	@tests/fuzz/run

faults: ## faults on a real cluster of its own, under load, judged by an observer (QUICK=1: a tenth of them, ONLY="leader killed": that one, KEEP=1: leave the cluster)
	@tests/faults/run

bench: ## measure what waiting costs, on a cluster of its own, and write docs/performance.md (QUICK=1: less; ONLY="floor handoff": those sections)
	@tests/bench/run

cluster: ## start a cluster with konductor and leave it running
	@tests/demo/install >/dev/null
	@echo 'konductor runs. To use the cluster:'
	@echo '  export KUBECONFIG=$$(make -s kubeconfig) PATH=$$($(CLUSTER) tools):$$PATH'
	@echo 'To stop it: make cluster-down'

cluster-down: ## stop the cluster
	@$(CLUSTER) down

kubeconfig: ## print the path of the cluster's kubeconfig
	@$(CLUSTER) kubeconfig

image: ## build konductor's image without Docker and print the path of its tar
	@tests/image/build

manifests: ## write manifests/, the chart's CRDs and what is generated in docs/ anew, from the Rust types and the chart
	@tests/needs cargo=rust cc=gcc go=golang
	@UPDATE=1 cargo test --quiet --locked --test generated
	@manifests/render

deny: ## check licences, advisories and sources of the dependencies (fetches the advisories; builds cargo-deny the first time: some minutes)
	@tests/needs cargo=rust cc=gcc
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny check --hide-inclusion-graph

clean-cache: ## remove everything that was built, also outside the tree
	@if $(CLUSTER) kubeconfig >/dev/null 2>&1; then echo 'a cluster still runs on these files: make cluster-down first' >&2; exit 1; fi
	rm -rf '$(CACHE)'
