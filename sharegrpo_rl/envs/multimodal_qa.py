"""The environment: one question in, one answer out, a rule-based reward.

`reset` shows a question (in one of its wordings, perhaps with transformed images), `step(text)` grades the answer and
ends the episode. Everything an episode depends on can be set through `reset(options=...)`; nothing else is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pydantic import field_validator

from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.data.bank_check import BankReport, RowCheck, check_bank
from sharegrpo_rl.data.images import in_threads
from sharegrpo_rl.data.messages import place_sentence
from sharegrpo_rl.data.transforms import TRANSFORMS, TransformName, dropped_transforms, transform_images
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import blind_partner, training_questions
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.envs.spaces import ImageList, UnicodeText
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth, question_key
from sharegrpo_rl.rewards.rubric import Rubric, Score, grade_completion

DEFAULT_REWARDS: Mapping[str, float] = {"accuracy": 0.9, "format": 0.1}
RESET_OPTIONS = ("question_index", "question_id", "variant_index", "transform", "transform_seed", "blind")


class EnvOptions(Options):
    """What `env_config` may hold in every environment."""

    max_questions: int | None = option(
        None, "at most this many training questions, the skipped ones included; test stays whole", ge=1
    )
    subset_seed: int = option(0, "which training questions max_questions keeps", ge=0)
    skip_questions: int = option(0, "training questions to leave out from the start: those of the warm start", ge=0)
    transforms: list[TransformName] | None = option(None, "image transforms to allow; null = the task's own list")
    transform_text_position: Literal["before", "after"] = option(
        "before", "the sentence about a transform comes before or after the question"
    )
    noise_pixels: list[int] | None = option(
        None,
        "fewest and most pixels of a picture that noise is drawn on, resized to them: a run sets its min_pixels and "
        "max_pixels; null = its own size",
    )

    @field_validator("noise_pixels")
    @classmethod
    def _check_noise_pixels(cls, pixels: list[int] | None) -> list[int] | None:
        if pixels is not None and not (len(pixels) == 2 and 1 <= pixels[0] <= pixels[1]):
            raise UserError(
                f"noise_pixels: expected the fewest and the most pixels, such as [3136, 1003520], got {pixels}"
            )
        return pixels


class MultimodalQAEnv(gym.Env[dict[str, Any], str]):
    """Single-step question answering about images.

    Observation: {"question": text, "images": tuple of uint8 arrays [height, width, 3]}. Action: the answer's text.
    A subclass is a task: it sets `id` and gives its `questions`; it may set `options_type` and override `check`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 # gymnasium declares it as an instance variable
    id: ClassVar[str]
    options_type: ClassVar[type[EnvOptions]] = EnvOptions
    system_prompt: ClassVar[str] = ""  # the task's own, for runs that name none

    def __init__(
        self,
        split: str = "train",
        rewards: Mapping[str, float] | None = None,
        answer_format: str = "think_answer",
        check: bool = True,
        render_mode: str | None = None,
        **env_config: Any,
    ) -> None:
        """`check`: see `check_rows`, for `env_config` see `options_type`."""
        self.render_mode = render_mode
        self.options = check_at("env_config.", self.options_type, env_config)
        self.bank = self.load_bank(self.options, split)
        self.rubric = Rubric(dict(DEFAULT_REWARDS if rewards is None else rewards), answer_format)
        self.observation_space = spaces.Dict({"images": ImageList(), "question": UnicodeText()})
        self.action_space = UnicodeText()
        limits = self.options.noise_pixels
        self._noise_pixels = None if limits is None else (limits[0], limits[1])
        self._set_rubrics: dict[tuple[tuple[str, float], ...], Rubric] = {}
        self._question: SeedQuestion | None = None
        self._observation: dict[str, Any] = {}
        if check:
            for report in self.check_rows():
                report.log()

    @classmethod
    def questions(cls, options: Any, split: str) -> QuestionBank:
        """All questions of the split; `options` is an `options_type`. Skipping and limits are `load_bank`'s."""
        raise NotImplementedError

    @classmethod
    def check(cls, question: SeedQuestion) -> None:
        """UserError where the question's ground truth cannot be graded."""
        check_truth(question)

    @classmethod
    def load_bank(cls, options: Any, split: str) -> QuestionBank:
        """The questions of the split that are used: in train `max_questions`, without the first `skip_questions`."""
        return cls.used_questions(cls.questions(options, split), options)

    @classmethod
    def used_questions(cls, bank: QuestionBank, options: Any) -> QuestionBank:
        """The part of a bank that `options` leave."""
        if bank.split == "train":
            return training_questions(bank, options.max_questions, options.skip_questions, options.subset_seed)
        return bank

    def check_rows(self, *more: RowCheck) -> list[BankReport]:
        """Read each row once: its images, its ground truth, which must earn its own reward, and what `more` asks of it.

        UserError for the first bad row, which would fail or teach nothing later. The reports of the banks that were read;
        generated questions are right by construction.
        """
        right = _OwnReward(self)
        return [check_bank(bank, task.check, right, *more) for bank, task in self.read_banks()]

    def read_banks(self) -> list[tuple[QuestionBank, type[MultimodalQAEnv]]]:
        """The banks whose rows are read from files, and the environment that checks each."""
        return [] if isinstance(self.bank, GeneratedBank) else [(self.bank, type(self))]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Show a question: a random one in its own wording, or what `options` (RESET_OPTIONS) ask for.

        `blind` swaps the images for those of another question of the same kind. UserError for an unknown option,
        question, wording or transform.
        """
        super().reset(seed=seed)
        choice = _known_options(options or {})
        index = self._index(choice)
        question = self.bank[index]
        variant = int(choice.get("variant_index", 0))
        if not 0 <= variant < len(question.wordings):
            count = len(question.wordings)
            raise UserError(f"question {question.id} has {count} wording(s); there is no variant_index {variant}")
        transform, transform_seed = choice.get("transform"), int(choice.get("transform_seed", 0))
        images = question.images
        if choice.get("blind") and images and (partner := blind_partner(self.bank, index)) is not None:
            images = self.bank[partner].images
        pictures = in_threads(lambda image: image.open(), images)
        keys = tuple(image.fingerprint() for image in images)
        sentence = None
        if transform is not None:
            pictures = list(transform_images(pictures, transform, transform_seed, self._noise_pixels))
            keys = tuple(_transformed_key(key, transform, transform_seed) for key in keys)
            sentence = TRANSFORMS[transform].sentence
        text = place_sentence(question.wordings[variant], sentence, self.options.transform_text_position)
        self._question = question
        # Arrays are copies: Pillow's own buffers are read-only.
        self._observation = {
            "images": tuple(np.array(picture, dtype=np.uint8) for picture in pictures),
            "question": text,
        }
        info = {
            "question_id": question.id,
            "question_index": index,
            "variant_index": variant,
            "transform": transform,
            "task": question.task,
            "subtask": question.subtask,
            "image_keys": keys,
        }
        return dict(self._observation), info

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Grade an answer; the episode ends. May be called again, for further answers to the same question."""
        (score,) = self.score([action])
        info = {"reward_parts": dict(score.parts), "extracted": score.extracted, "error": score.error}
        return dict(self._observation), float(score.total), True, False, info

    def score(self, texts: Sequence[str], truncated: Sequence[bool] | None = None) -> list[Score]:
        """Grade several answers to the question shown last."""
        if self._question is None:
            raise gym.error.ResetNeeded("call reset() before step() or score(): no question has been shown yet")
        return self.grade(self._question, texts, truncated)

    def grade(
        self, question: SeedQuestion, texts: Sequence[str], truncated: Sequence[bool] | None = None
    ) -> list[Score]:
        """Grade answers to any question.

        All grading goes through here, also that of env runners, which call it from a separate thread: a subclass
        that grades otherwise overrides this method and keeps no state between calls.
        """
        return self.rubric_of(question).score(list(texts), question, None if truncated is None else list(truncated))

    def rubric_of(self, question: SeedQuestion) -> Rubric:
        """What grades a question: the run's rubric, or in a mixture that of the question's own set."""
        if question.rewards is None:
            return self.rubric
        weights = tuple(sorted(question.rewards.items()))
        if weights not in self._set_rubrics:
            self._set_rubrics[weights] = Rubric(question.rewards, self.rubric.form.name)
        return self._set_rubrics[weights]

    def perfect_response(self, question: SeedQuestion) -> str:
        """The ground truth in the run's answer format."""
        return self.rubric.form.render("The answer follows.", question.answer, ("The answer follows.",))

    def is_right(self, question: SeedQuestion, text: str) -> bool:
        """Does a response earn full accuracy, in the format?"""
        form = self.rubric.form
        return form.matches(text) and grade_completion(text, question_key(question), form).score >= 1

    def dropped_transforms(self, index: int) -> dict[str, str]:
        """Every known transform that this question never gets, with the reason."""
        return dropped_transforms(self.bank[index], tuple(TRANSFORMS))

    def _index(self, options: Mapping[str, Any]) -> int:
        where = f"{self.bank.name} ({self.bank.split})"
        if "question_index" in options:
            index = int(options["question_index"])
            if not 0 <= index < len(self.bank):
                raise UserError(f"{where} has {len(self.bank)} questions; there is no question_index {index}")
            return index
        if "question_id" in options:
            question_id = str(options["question_id"])
            found = self._indices.get(question_id, [])
            if len(found) != 1:
                state = f"{len(found)} questions" if found else "no question"
                raise UserError(f"{where} has {state} with the id {question_id!r}")
            return found[0]
        return int(self.np_random.integers(len(self.bank)))

    @cached_property
    def _indices(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index in range(len(self.bank)):
            indices.setdefault(self.bank[index].id, []).append(index)
        return indices


class _OwnReward:
    """UserError for a ground truth that does not earn its own reward: nothing could be learned from its row."""

    def __init__(self, env: MultimodalQAEnv) -> None:
        self._env = env
        self._grades_itself = type(env).grade is not MultimodalQAEnv.grade
        self._right: set[tuple[Any, ...]] = set()

    def __call__(self, question: SeedQuestion) -> None:
        key = (question.answer, question.choices, question.answer_type, question.unit, question.precision)
        if self._grades_itself or key in self._right:
            return
        response = self._env.perfect_response(question)
        if not self._env.is_right(question, response):
            raise UserError(
                f"the ground truth {question.answer[:60]!r} does not earn its own reward: {response[:160]!r} is not graded "
                f"as right in the format {self._env.rubric.form.name}; correct the row or leave it out"
            )
        self._right.add(key)


def _known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in RESET_OPTIONS:
            raise UserError(f"reset(options=...): unknown option {name!r}; known: {', '.join(RESET_OPTIONS)}")
    return {name: value for name, value in options.items() if value is not None}


def _transformed_key(key: str, transform: str, seed: int) -> str:
    return f"{key}:{transform}:{seed}" if TRANSFORMS[transform].seeded else f"{key}:{transform}"
