"""Environments over a data set from disk or hub: choice of rows, checks when loading, the task's own defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, ClassVar, cast

from sharegrpo_rl.data.checking import check_bank
from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS, allowed_transforms, dropped_transforms
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.options import EnvOptions, about
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rewards.truth import check_ground_truth


@dataclass(frozen=True)
class FileOptions(EnvOptions):
    """Options of every environment that reads a data set."""

    data: str = field(default="", metadata=about("the data set: a folder, a file, or a hub name"))
    kinds: list[str] = field(
        default_factory=list, metadata=about("keep only these kinds of question (`subtask`); empty = all")
    )
    columns: dict[str, str] = field(
        default_factory=dict, metadata=about("field -> the data set's name of that column, where it is not a known one")
    )
    test_fraction: float | None = field(
        default=None,
        metadata=about("share of a data set with one file only that is its test split", minimum=0, maximum=1),
    )
    hub_config: str | None = field(default=None, metadata=about("configuration of a hub data set"))
    template_wordings: bool = field(
        default=False, metadata=about("add rule-based wordings to questions that fit a template")
    )


class FileTask(MultimodalQAEnv):
    """A task whose questions stand in a data set. Subclasses set the class variables, or `check`."""

    options_type: ClassVar[type[EnvOptions]] = FileOptions
    answer_type: ClassVar[str | None] = None  # for rows that name none
    transforms: ClassVar[tuple[str, ...] | None] = None  # asked for by default; the word rule still applies

    @classmethod
    def load_bank(cls, options: Any, split: str, *, check: bool = True) -> QuestionBank:
        """The chosen rows of the split. UserError naming file, row or key for whatever is wrong with them."""
        if not options.data:
            raise UserError(f"env_config.data: {cls.id} needs a data set: a folder, a file, or a hub name")
        rows = load_bank(
            options.data,
            split,
            columns=options.columns or None,
            test_fraction=options.test_fraction,
            hub_config=options.hub_config,
            template_wordings=options.template_wordings,
        )
        bank = BankView(rows, _choose(rows, options, split), partial(cls.prepare, options=options))
        if check:
            check_bank(bank, check_truth=cls.check)
        return bank

    @classmethod
    def prepare(cls, question: SeedQuestion, options: Any) -> SeedQuestion:
        """A row with the task's defaults filled in."""
        requested = cls._requested(options)
        return replace(
            question,
            answer_type=question.answer_type or ("multiple_choice" if question.choices else cls.answer_type),
            transforms=allowed_transforms(question, requested),
        )

    @classmethod
    def _requested(cls, options: Any) -> tuple[str, ...]:
        if options.transforms is not None:
            return tuple(options.transforms)
        return DEFAULT_TRANSFORMS if cls.transforms is None else cls.transforms

    def dropped_transforms(self, index: int) -> dict[str, str]:
        """Every known transform that this question never gets: not asked for, or forbidden by row or word rule."""
        requested = self._requested(self.options)
        bank = cast(BankView, self.bank)
        why = dropped_transforms(bank.original(index), requested)
        return {name: "not asked for (env_config.transforms)" for name in TRANSFORMS if name not in requested} | why

    @classmethod
    def check(cls, question: SeedQuestion) -> None:
        """UserError where the question's ground truth cannot be graded."""
        check_ground_truth(question)


def _choose(rows: QuestionBank, options: Any, split: str) -> Sequence[int]:
    """Row numbers in file order: only the wanted kinds; in train at most max_questions, the skipped ones left out."""
    chosen: Sequence[int] = range(len(rows))
    if options.kinds:
        kinds = [rows[index].subtask for index in chosen]
        if missing := [kind for kind in options.kinds if kind not in kinds]:
            known = ", ".join(sorted(set(kinds) - {""})) or "none: its rows have no subtask"
            raise UserError(f"env_config.kinds: {rows.name} ({split}) has no kind {missing[0]!r}; it has {known}")
        chosen = [index for index in chosen if kinds[index] in options.kinds]
    if split != "train":
        return chosen
    if options.max_questions is not None and options.max_questions < len(chosen):
        random = Random(derive_seed("subset", options.subset_seed))
        chosen = sorted(random.sample(chosen, options.max_questions))
    if options.skip_questions >= len(chosen):
        raise UserError(
            f"env_config.skip_questions: {options.skip_questions} are left out of {len(chosen)} questions of "
            f"{rows.name} (train) and none remains; lower it, or the warm start's rows"
        )
    return chosen[options.skip_questions :]
