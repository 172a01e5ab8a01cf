"""Signs that a run goes wrong, read from the rows of its result.json by fixed rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.config.metrics import value_of

WINDOW = 8  # iterations averaged at the start and at the end of a run; a quarter of a shorter run
Rows = Sequence[Mapping[str, Any]]

ENTROPY_KEPT, ENTROPY_SMALL = 0.1, 0.05
LENGTH_GROWN = 2.0
TRUNCATED, FORMAT_STUCK, ZERO_VARIANCE, LOGPROB_DIFF = 0.1, 0.5, 0.8, 0.02


@dataclass(frozen=True)
class Alarm:
    """What was seen, and what to look at or change."""

    name: str
    seen: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """A check, when it raises an alarm (in words), and the remedy. `check` returns what it saw, or None."""

    name: str
    when: str
    remedy: str
    check: Callable[[Rows], str | None]


def find_alarms(rows: Rows) -> list[Alarm]:
    """The alarms of a run, in the order of RULES; none for a run without rows."""
    if not rows:
        return []
    return [Alarm(rule.name, seen, rule.remedy) for rule in RULES if (seen := rule.check(rows))]


def ends(rows: Rows, metric: str) -> tuple[float, float] | None:
    """Means of a metric at the start and at the end of a run; None where fewer than two rows have it."""
    values = [v for row in rows if (v := value_of(row, metric)) is not None]
    if len(values) < 2:
        return None
    width = max(1, min(WINDOW, len(values) // 4))
    return sum(values[:width]) / width, sum(values[-width:]) / width


def _entropy(rows: Rows) -> str | None:
    pair = ends(rows, "learners/default_policy/entropy")
    if pair is None or pair[1] >= ENTROPY_SMALL or pair[1] >= ENTROPY_KEPT * pair[0]:
        return None
    return f"entropy {pair[0]:.3g} at the start, {pair[1]:.3g} at the end"


def _length(rows: Rows) -> str | None:
    pair = ends(rows, "env_runners/completion_length_mean")
    if pair is None or pair[1] < LENGTH_GROWN * pair[0]:
        return None
    return f"{pair[0]:.0f} tokens a completion at the start, {pair[1]:.0f} at the end"


def _truncation(rows: Rows) -> str | None:
    pair = ends(rows, "env_runners/truncated_rate")
    return None if pair is None or pair[1] < TRUNCATED else f"{pair[1]:.1%} of the completions are cut off at the end"


def _format(rows: Rows) -> str | None:
    pair = ends(rows, "env_runners/reward_parts/format")
    return None if pair is None or pair[1] >= FORMAT_STUCK else f"{pair[1]:.1%} have the required format at the end"


def _zero_variance(rows: Rows) -> str | None:
    pair = ends(rows, "groups/valid_reward_ratio")
    if pair is None or 1 - pair[1] < ZERO_VARIANCE:
        return None
    density = ends(rows, "groups/reward_density")
    right = f", {density[1]:.0%} of the completions right" if density else ""
    return f"{1 - pair[1]:.0%} of the groups have equal rewards at the end{right}"


def _grader(rows: Rows) -> str | None:
    errors = sum(value_of(row, "env_runners/grader_errors") or 0 for row in rows)
    return f"{errors:.0f} completions on which the grader failed" if errors else None


def _logprob_diff(rows: Rows) -> str | None:
    pair = ends(rows, "learners/default_policy/logprob_diff_mean")
    if pair is None or pair[1] < LOGPROB_DIFF:
        return None
    return f"mean distance of log-probs {pair[0]:.3g} at the start, {pair[1]:.3g} at the end"


def _skipped(rows: Rows) -> str | None:
    steps = max((value_of(row, "learners/default_policy/skipped_steps") or 0 for row in rows), default=0)
    return f"{steps:.0f} optimizer steps were skipped, their gradient was not finite" if steps else None


RULES = (
    Rule(
        "entropy collapse",
        f"entropy below {ENTROPY_SMALL:g} and below {ENTROPY_KEPT:.0%} of its start",
        "The policy says nearly one thing only. Raise clip_high or temperature, lower lr, or stop earlier; after a task is "
        "solved this is no harm.",
        _entropy,
    ),
    Rule(
        "length blow-up",
        f"completions at least {LENGTH_GROWN:g} times as long as at the start",
        "Look in the rollouts whether the words carry the answer. overlong_buffer punishes length.",
        _length,
    ),
    Rule(
        "truncation",
        f"at least {TRUNCATED:.0%} of the completions cut off at the end",
        "Cut-off completions earn nothing and teach the cut. Raise max_completion_tokens, or mask_truncated.",
        _truncation,
    ),
    Rule(
        "format stuck",
        f"fewer than {FORMAT_STUCK:.0%} in the required format at the end",
        "The model does not know the form: show it in system_prompt, lengthen the warm start, or raise the format's weight.",
        _format,
    ),
    Rule(
        "groups without variance",
        f"at least {ZERO_VARIANCE:.0%} of the groups with equal rewards at the end",
        "Such groups teach nothing. Use questions of the right difficulty, more samples, or selection: dynamic_sampling.",
        _zero_variance,
    ),
    Rule(
        "grader errors",
        "any completion on which the grader failed",
        "These count as wrong. `sharegrpo-rl grade` on a file with such an answer tells the reason.",
        _grader,
    ),
    Rule(
        "sampler and trainer apart",
        f"a native token's log-prob differs by at least {LOGPROB_DIFF:g} on average at the end",
        "The policy that sampled is not the one that is trained. Use rollout_correction, or one dtype for both.",
        _logprob_diff,
    ),
    Rule(
        "steps skipped",
        "any optimizer step whose gradient was not finite",
        "Lower lr, or use dtype: bfloat16 instead of float16.",
        _skipped,
    ),
)
