# `make check` is the one gate: every commit passes it.
.PHONY: check format lint types test slow lowest highest wheels docs lock licenses sbom audit

check: lint types test

format:
	uv run ruff format .
	uv run ruff check --fix .

lint:
	uv run ruff format --check .
	uv run ruff check .

types:
	uv run mypy

test:
	uv run pytest --ignore=tests/e2e

slow:
	uv run pytest -m slow

# Both ends of the versions that pyproject.toml allows: the fast tests, and the slow ones of what leans on private parts.
lowest highest:
	bash .ci/ends $@ all

# The wheel on each Python that uv finds, with the newest libraries that it allows. Elsewhere installed ones by path:
# make wheels PYTHONS="$$HOME/.pyenv/versions/3.12.1/bin/python 3.13"
PYTHONS ?= 3.11 3.12 3.13
wheels:
	SHAREGRPO_TEST_PYTHONS="$(PYTHONS)" uv run pytest -n 0 -m slow tests/e2e/test_cli_wheel.py -rs

docs:
	NO_MKDOCS_2_WARNING=1 uv run --group docs mkdocs build --strict

lock:
	uv export --no-emit-project --no-header --all-extras --no-extra vllm -o requirements.lock

licenses:
	uv run python docs/make_licenses.py

# What an installation with every extra but vllm brings, as CycloneDX. It names the files' addresses, so it is not committed.
sbom:
	mkdir -p dist
	uv export --quiet --no-emit-project --no-dev --all-extras --no-extra vllm --format cyclonedx1.5 -o dist/sbom.cdx.json

# --strict: a package that the service does not know fails, instead of passing unseen.
audit:
	uvx pip-audit@2.10.1 -r requirements.lock --no-deps --disable-pip --strict
