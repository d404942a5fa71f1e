.DEFAULT_GOAL := help
.PHONY: help setup demo test check generate docs release trial lock images up down e2e bench wheels clean
PY := .venv/bin/python
TIMED := requirements/timed.sh
# Without bytecode files every process compiles the thousands of modules of torch and transformers again (10 s).
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv with all that is locked, and the Debian packages it needs; seconds when there is nothing to do
	@requirements/setup.sh

demo: setup ## a real cluster, the operator and a model fine-tuned; CLUSTER=current: your kubeconfig; JOB=debian-summaries
	$(PY) -m examples.demo $(if $(JOB),--job $(JOB)) $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(REGISTRY),--registry $(REGISTRY))

test: check ## make check, then all tests, also on a real API server and a real node; PYTEST='-k word' for some
	@echo "== tests"
	@$(PY) -m pytest -n 3 --durations=30 $(PYTEST)

check: setup ## ruff, mypy, the import arrows, fresh generated files, links of the docs, helm lint and kubeconform
	@$(TIMED) ruff sh -c '.venv/bin/ruff check . && .venv/bin/ruff format --check .'
	@$(TIMED) mypy sh -c '.venv/bin/mypy && .venv/bin/mypy -m examples.demo'
	@$(TIMED) imports .venv/bin/lint-imports
	@$(TIMED) generated sh -c '$(MAKE) -s generate && git diff --exit-code -- crds charts/*/files charts/*/README.md docs/api.md'
	@$(TIMED) docs $(PY) -m website
	@$(TIMED) chart $(PY) -m pytest -q tests/chart/test_lint.py

generate: setup ## CRD, its copy in the chart, the page of the API, the dashboards and the chart's table of values
	$(PY) -m finetune_operator.api.crd crds/finetunejobs.yaml charts/finetune-operator/files/finetunejobs.yaml
	$(PY) -m finetune_operator.api.reference docs/api.md
	$(PY) -m dashboards charts/finetune-operator/files/dashboards
	$(PY) charts/values_table.py charts/finetune-operator

docs: setup ## the documentation as a site in build/docs; a link that leads nowhere is an error
	$(PY) -m website

release: setup ## images, chart, docs, bills of materials, licences and an installer in one archive, in build/release
	$(PY) -m release

trial: setup ## the release that `make release` made, installed in the embedded cluster with the network cut; runs the demo's job
	$(PY) -m release.trial build/release/finetune-*.tar

lock: setup ## requirements/*.txt from pyproject.toml; UPGRADE=1 takes the newest versions
	@requirements/lock.sh $(if $(UPGRADE),--upgrade)

images: setup ## all images, as the demo builds them
	$(PY) -m devcluster build operator trainer trainer-slim

up: setup ## the embedded cluster, without the demo
	$(PY) -m devcluster up

down: ## end the embedded cluster, leaving nothing behind
	$(PY) -m devcluster down

e2e: setup ## only the tests on a real node
	$(PY) -m pytest tests/e2e

bench: setup ## a benchmark: BENCH=burst, with ARGS='--jobs 50' if you like; docs/benchmarks.md tells more
	$(PY) -m bench.$(or $(BENCH),burst) $(ARGS)

wheels: setup ## DeepSpeed's wheel, for .venv and for the trainer image; compiled once for each set of pins
	@ls wheels/*/*.whl

clean: ## end the cluster, remove what was built here; downloaded and compiled things stay in ~/.cache
	-test -x $(PY) && $(PY) -m devcluster down
	rm -rf .venv bench/train_throughput/.venv bench/readers/.venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build wheels/*/
