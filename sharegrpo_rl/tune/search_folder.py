"""The folder of one search, and whether a search begins, goes on or is already finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.resume import differing_keys, versions
from sharegrpo_rl.tune.run_folder import RunFolder, remove
from sharegrpo_rl.tune.search_file import SearchSpec

PARAMS, RESULTS, BEST = "search_params.json", "search.json", "best.yaml"
PLOTS = ("parallel_coordinates.png", "learning_curves.png")
OWN = (PARAMS, RESULTS, BEST, *PLOTS, "events.jsonl", "trials", "errors")
FREE = ("budget", "max_concurrent", "max_failures")  # of `tune:`; they decide no trial's numbers


class SearchFolder(RunFolder):
    """A search's place on disk: locked and written like a run's, gone again where no trial finished an iteration."""

    @property
    def has_progress(self) -> bool:
        return any(RunFolder(path).has_progress for path in (self.path / "trials").glob("[0-9]*"))

    @property
    def is_finished(self) -> bool:
        return (self.path / RESULTS).exists()

    def clear(self) -> None:
        """Remove what an unfinished start left behind (this package's own files only)."""
        if self.has_progress or self.is_finished:
            return
        for name in OWN:
            remove(self.path / name)
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    def _refuse_foreign_files(self) -> None:
        if (self.path / PARAMS).exists():
            return
        foreign = [p.name for p in self.path.iterdir() if p.name not in OWN and not p.name.startswith(".")]
        if foreign:
            raise UserError(f"{self.path}: holds other files ({foreign[0]}) and no search; give another --name")


def search_params(spec: SearchSpec, seed: int, imports: Mapping[str, str]) -> dict[str, Any]:
    """The content of search_params.json: the search as its file gives it, its seed, digests of user code, versions."""
    deciding = {key: value for key, value in spec.options.items() if key not in FREE}
    params = {
        "name": spec.base.name,
        "run": spec.base.run,
        "env": spec.base.env,
        "seed": seed,
        "stop": spec.base.stop,
        "config": {**spec.tree.get("config", {}), "tune": deciding},
        "imports": dict(imports),
        "versions": versions(),
    }
    return as_json(params)


def decide_search(folder: SearchFolder, params: Mapping[str, Any], options: Mapping[str, Any], resume: str) -> str:
    """`new`, `resume` or `finished`; UserError where the folder holds a search that must not be touched."""
    stored = folder.read_json(PARAMS)
    if stored is None or not (folder.has_progress or folder.is_finished):
        return "new"
    if resume == "never":
        raise UserError(
            f"{folder.path}: already holds a search; give another --name, or --resume auto to go on with it"
        )
    if different := differing_keys(stored, params):
        key, was, now = different[0]
        key = key.replace("config.tune.", "tune.")
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"{folder.path}: holds a search with other settings: {key} (there {was!r}, now {now!r}){more}; "
            "give another --name to begin a new one"
        )
    results = folder.read_json(RESULTS)
    if results is None or results["ended"] == "interrupted":
        return "resume"
    return "resume" if results["ended"] == "budget" and _has_left(results, options["budget"] or {}) else "finished"


def _has_left(results: Mapping[str, Any], budget: Mapping[str, int | None]) -> bool:
    """Does a budget, larger than before, allow to go on?"""
    return all(budget.get(key) is None or results[key] < budget[key] for key in ("seconds", "completions"))
