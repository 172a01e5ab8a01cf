# `make check` is the one gate: every commit passes it.
.PHONY: check format lint types test slow docs lock

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

docs:
	NO_MKDOCS_2_WARNING=1 uv run --group docs mkdocs build --strict

lock:
	uv export --no-emit-project --no-header --all-extras --no-extra vllm -o requirements.lock
