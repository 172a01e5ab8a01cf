"""Every environment by its gymnasium id. A new task is one file in `tasks/` and one line here.

Nothing here imports a task before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharegrpo_rl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from sharegrpo_rl.data.types import QuestionBank
    from sharegrpo_rl.envs.multimodal_qa import EnvOptions, MultimodalQAEnv


@dataclass(frozen=True)
class EnvironmentSpec:
    """An environment's id, where its class is ("module:Class"), and what it is about in a line."""

    id: str
    entry_point: str
    doc: str

    def load(self) -> type[MultimodalQAEnv]:
        """The class, imported now."""
        module, name = self.entry_point.split(":")
        cls: type[MultimodalQAEnv] = getattr(import_module(module), name)
        return cls

    @property
    def options(self) -> type[EnvOptions]:
        """The model of what `env_config` may hold."""
        return self.load().options_type


_TASKS = "sharegrpo_rl.envs.tasks"
_FILES = "sharegrpo_rl.envs.file_task"
_ALL = (
    EnvironmentSpec(
        "DrawnShapes-v0",
        f"{_TASKS}.drawn_shapes:DrawnShapesEnv",
        "generated: counting, colors, forms, comparing, places, simple geometry",
    ),
    EnvironmentSpec("VisualCounting-v0", f"{_FILES}:VisualCountingEnv", "how many; answers are whole numbers"),
    EnvironmentSpec(
        "GeometryQA-v0", f"{_FILES}:GeometryQAEnv", "plane geometry with diagrams; numbers and closed forms"
    ),
    EnvironmentSpec("MathQA-v0", f"{_FILES}:MathQAEnv", "mathematics, with images or without"),
    EnvironmentSpec(
        "Arithmetic-v0",
        f"{_TASKS}.arithmetic:ArithmeticEnv",
        "generated, text only: two numbers; a share of the number facts held out for the test",
    ),
    EnvironmentSpec("MultimodalQA-v0", f"{_FILES}:AnyDatasetEnv", "any data set by path"),
)
ENVIRONMENTS: dict[str, EnvironmentSpec] = {spec.id: spec for spec in _ALL}


def register_environment(spec: EnvironmentSpec) -> None:
    """Add an environment of your own, here and in gymnasium; UserError where the id is taken."""
    if spec.id in ENVIRONMENTS:
        raise UserError(f"environment {spec.id!r} is registered already, as {ENVIRONMENTS[spec.id].entry_point}")
    ENVIRONMENTS[spec.id] = spec
    register_in_gymnasium(spec)


def register_in_gymnasium(spec: EnvironmentSpec) -> None:
    """Make `gymnasium.make(spec.id, **env_config)` work; the class is imported only then."""
    import gymnasium

    if spec.id not in gymnasium.registry:
        gymnasium.register(id=spec.id, entry_point=spec.entry_point)


def environment_spec(env_id: str) -> EnvironmentSpec:
    """The spec of an id; UserError with the closest known id where it is unknown."""
    if env_id not in ENVIRONMENTS:
        hint = did_you_mean(env_id, ENVIRONMENTS, f"known environments: {', '.join(ENVIRONMENTS)}")
        raise UserError(f"env: unknown environment {env_id!r}; {hint}")
    return ENVIRONMENTS[env_id]


def check_env_config(env_id: str, env_config: Mapping[str, Any]) -> EnvOptions:
    """The environment's options, keys and values checked, without opening any data."""
    from sharegrpo_rl.config.option import check_at

    return check_at("env_config.", environment_spec(env_id).options, env_config)


def make_bank(env_id: str, env_config: Mapping[str, Any], split: str, *, check: bool = True) -> QuestionBank:
    """The questions of a split; `check` reads them all once and refuses bad ground truths and images."""
    check_env_config(env_id, env_config)
    return make_env(env_id, env_config, split=split, check=check).bank


def make_warm_start_bank(env_id: str, env_config: Mapping[str, Any], rows: int) -> QuestionBank:
    """The first `rows` training questions: those that RL leaves out with `skip_questions: rows`."""
    from sharegrpo_rl.envs.bank_view import BankView

    options = check_env_config(env_id, env_config).model_copy(update={"skip_questions": 0})
    bank = environment_spec(env_id).load().load_bank(options, "train")
    if rows >= len(bank):
        raise UserError(
            f"warm_start.rows: {rows}, but {bank.name} (train) has {len(bank)} rows and RL needs some of them; lower it, "
            "or set warm_start to null"
        )
    return BankView(bank, range(rows))


def make_env(
    env_id: str,
    env_config: Mapping[str, Any],
    *,
    split: str = "train",
    rewards: Mapping[str, float] | None = None,
    answer_format: str = "think_answer",
    check: bool = True,
) -> MultimodalQAEnv:
    """An environment over a split, without gymnasium's wrappers: several answers may be graded after one reset."""
    cls = environment_spec(env_id).load()
    return cls(split=split, rewards=rewards, answer_format=answer_format, check=check, **env_config)


def shown_env_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `env_config` of a run's whole training split, from every option of the run: as its model is shown it."""
    from sharegrpo_rl.data.images import MAX_IMAGE_PIXELS

    fewest, most = config["min_pixels"], config["max_pixels"]
    return {
        **config["env_config"],
        "transform_text_position": config["transform_text_position"],
        "noise_pixels": [fewest or 1, most or MAX_IMAGE_PIXELS] if fewest or most else None,
    }


def train_env_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `env_config` of RL's training split, from every option of a run: the warm start's questions are left out."""
    from sharegrpo_rl.config.option import check_at
    from sharegrpo_rl.config.run import WarmStartOptions

    env_config, warm_start = shown_env_config(config), config["warm_start"]
    rows = check_at("warm_start.", WarmStartOptions, warm_start).rows_from_train if warm_start else 0
    return {**env_config, "skip_questions": env_config.get("skip_questions", 0) + rows}
