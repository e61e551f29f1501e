# Everything bootstraps itself: Python 3.11 and make are all that must be there.
PYTHON ?= python3.11
PY := .venv/bin/python
UV_VERSION := 0.13.9
export UV_NO_PROGRESS := 1
unexport PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
PROTOC := $(PY) -m grpc_tools.protoc -Iproto -I$$($(PY) -c "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])")

.PHONY: demo test test-system check bench nightly stubs lock images dashboards chart check-tools test-kube

demo: .venv/eagerly
	$(PY) -m eagerly demo

# Two files at a time, and a thread each; tests/conftest.py says which share a process.
test: .venv/dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not system"

# The whole through minutes of work, load and loss: the demo, the README, jobs, the ledger, a minute's soak.
test-system: .venv/dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m system

check: .venv/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --warnings
	.venv/bin/lint-imports
	$(PROTOC) --include_imports --include_source_info --descriptor_set_out=.venv/contract.binpb proto/eagerly/v1/*.proto \
	    proto/inference/*.proto
	.venv/bin/buf lint .venv/contract.binpb#format=binpb --config buf.yaml
	$(PY) -m pytest tests/unit/test_stubs.py

bench: .venv/dev
	$(PY) -m benchmarks

nightly: .venv/dev
	$(PY) -m benchmarks.nightly

# With docker, podman or buildah: PREFIX=registry.example.org/team/ TAG=1.2.3 make images
images:
	deploy/images.sh

dashboards:
	$(PYTHON) deploy/monitoring/dashboards.py deploy/monitoring/dashboards

# What the charts have from elsewhere: READMEs from their values, rules and dashboards from deploy/monitoring.
chart: .venv/dev
	$(PY) helm/readme.py
	cp deploy/monitoring/rules.yaml helm/eagerly/files/
	cp deploy/monitoring/dashboards/*.json helm/eagerly/files/dashboards/

# The pinned Kubernetes tools: from $EAGERLY_KUBE where it is set, else by the usual installers; kube-score by Go's.
check-tools:
	tests/kube/install-tools.sh

# The chart on a control plane on loopback, with the real operator; says why where there is none.
test-kube: .venv/dev
	EAGERLY_CONTROL_PLANE=1 $(PY) -m pytest tests/kube/test_plane_*.py tests/kube/test_chart_programs.py

stubs: .venv/dev
	$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. proto/eagerly/v1/*.proto
	$(PROTOC) -Iservices/oip=proto/inference --python_out=. --pyi_out=. services/oip/open_inference.proto

# Without annotations the lock files name packages, versions and hashes, and no place they come from.
lock: .venv/uv
	.venv/bin/uv pip compile -q pyproject.toml --extra cluster --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 -o requirements.lock
	.venv/bin/uv pip compile -q pyproject.toml -c requirements.lock --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 -o requirements-client.lock
	.venv/bin/uv pip compile -q pyproject.toml --extra cluster --extra dev -c requirements.lock --generate-hashes \
	    --no-annotate --no-header --python-version 3.11 -o requirements-dev.lock
	echo kserve==0.21.0 | .venv/bin/uv pip compile -q - --generate-hashes --no-annotate --no-header \
	    --python-version 3.11 -o tests/unit/kserve.lock

.venv/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# Bytecode is compiled here once, so that no worker's start waits for it.
.venv/eagerly: .venv/uv requirements.lock pyproject.toml
	.venv/bin/uv pip install -q --python $(PY) --require-hashes --compile-bytecode -r requirements.lock
	.venv/bin/uv pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/eagerly requirements-dev.lock
	.venv/bin/uv pip install -q --python $(PY) --require-hashes -r requirements-dev.lock
	@touch $@
