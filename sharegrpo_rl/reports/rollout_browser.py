"""The rollout browser of a run's page: filters, the groups as data, and the script that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

MOST_GROUPS = 400  # newest first; a page with more is slow to open

STYLE = """
#filters { display: flex; flex-wrap: wrap; gap: 10px 16px; align-items: end; margin: 12px 0; }
#filters label { display: grid; font-size: .8rem; color: var(--soft); }
#filters select, #filters input, #more { font: inherit; font-size: .92rem; padding: 5px 8px; color: var(--ink);
  border: 1px solid var(--line); border-radius: 6px; background: var(--card); max-width: 15rem; }
#filters input[type=number] { width: 5.5em; }
#more { cursor: pointer; margin-top: 16px; }
.group { padding: 18px 0; border-top: 1px solid var(--line); }
.slots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)); gap: 14px 24px; margin: 8px 0; }
.slot img { max-width: 150px; border: 1px solid var(--line); border-radius: 6px; display: block; margin-bottom: 6px;
  image-rendering: pixelated; }
.pair { min-width: 0; }
.pair .note { margin: 0 0 4px; }
.pair.shared pre { border-left: 3px solid var(--line); }
.alarms dt { color: var(--warn); font-size: 1rem; font-weight: 600; }
.alarms dd { margin-bottom: 12px; max-width: 46rem; }
"""


def browser(rollouts: Sequence[dict[str, Any]], images: dict[str, list[str]]) -> str:
    """HTML of the browser; `rollouts` are the lines of rollouts.jsonl, `images` PNGs as base64 by `image_key`."""
    groups = flat_groups(rollouts)
    choices = {
        "iteration": list(dict.fromkeys(str(g["iteration"]) for g in groups)),
        "kind": sorted({g["subtask"] for g in groups if g["subtask"]}),
        "variant": [str(v) for v in range(max(len(g["slots"]) for g in groups))],
        "verdict": ["right", "wrong", "cut"],
        "trained": ["native", "shared", "untrained"],
    }
    selects = "".join(_select(name, values) for name, values in choices.items())
    return f"""<h2>Rollouts</h2>
<p class="note">Groups as they were sampled in training. A pair is a completion with a prompt that it was trained under: its
own (native), or a sibling variant's (shared). Hover over a reward for its parts.</p>
<form id="filters">{selects}
<label>reward from <input name="from" type="number" step="any"></label>
<label>to <input name="to" type="number" step="any"></label>
<label>contains <input name="search" type="search" placeholder="question, answer, id, text"></label></form>
<p class="note" id="count"></p><div id="groups"></div><button id="more" type="button" hidden>Show more</button>
<noscript><p>The browser needs JavaScript; the same rows stand in rollouts.jsonl.</p></noscript>
<script id="rollout-data" type="application/json">{_script_json({"groups": groups})}</script>
<script id="rollout-images" type="application/json">{_script_json(images)}</script>
<script>{files("sharegrpo_rl.reports").joinpath("rollout_browser.js").read_text(encoding="utf-8")}</script>"""


def flat_groups(rollouts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, newest iteration first, at most MOST_GROUPS; each slot with the key of its images."""
    found = []
    for row in reversed(rollouts):
        for group in row["groups"]:
            slots = [slot | {"image": image_key(group, slot)} for slot in group["slots"]]
            found.append(group | {"iteration": row["training_iteration"], "slots": slots})
    return found[:MOST_GROUPS]


def image_key(group: dict[str, Any], slot: dict[str, Any]) -> str:
    """Slots with equal keys show equal images."""
    return f"{group['question_index']}/{slot['transform'] or ''}/{slot['transform_seed'] if slot['transform'] else 0}"


def _select(name: str, values: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
    return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _script_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever text it holds."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
