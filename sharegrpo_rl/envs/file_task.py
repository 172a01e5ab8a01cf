"""Environments over a data set from disk or hub: choice of rows, checks when loading, the task's own defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeAlias, cast

from sharegrpo_rl.data.checking import check_bank
from sharegrpo_rl.data.loading import TableBank, load_bank
from sharegrpo_rl.data.mixture import MixtureBank
from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS, allowed_transforms, dropped_transforms
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.file_options import FileOptions, mixed_sets
from sharegrpo_rl.envs.mixed_task import load_mixture, reader_of
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.options import EnvOptions
from sharegrpo_rl.envs.row_choice import check_skip, choose_rows
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rewards.truth import check_ground_truth

Prepare: TypeAlias = Callable[[SeedQuestion], SeedQuestion]


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
        if isinstance(options.data, list):
            return load_mixture(cls, options, split, check=check)
        rows = cls.open_rows(options, split)
        chosen = choose_rows(rows, options, split)
        if split == "train":
            check_skip(options.skip_questions, len(chosen), f"{rows.name} (train)")
            chosen = chosen[options.skip_questions :]
        return cls.read(rows, chosen, options, check=check)

    @classmethod
    def open_rows(cls, options: Any, split: str) -> TableBank:
        """All rows of the split, as the data set has them."""
        return load_bank(
            options.data,
            split,
            columns=options.columns or None,
            test_fraction=options.test_fraction,
            hub_config=options.hub_config,
            template_wordings=options.template_wordings,
            benchmark=options.benchmark,
        )

    @classmethod
    def read(
        cls, rows: QuestionBank, chosen: Sequence[int], options: Any, *, check: bool, finish: Prepare | None = None
    ) -> BankView:
        """The chosen rows, prepared (and `finish`ed, a last change to each); `check` reads them all once."""
        bank = BankView(rows, chosen, partial(_prepared, task=cls, options=options, finish=finish))
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
        task, options, question = self._origin(index)
        requested = task._requested(options)
        why = dropped_transforms(question, requested)
        return {name: "not asked for (env_config.transforms)" for name in TRANSFORMS if name not in requested} | why

    def _origin(self, index: int) -> tuple[type[FileTask], Any, SeedQuestion]:
        """Who read a question, by which options, and the question as its data set has it."""
        if not isinstance(self.bank, MixtureBank):
            return type(self), self.options, cast(BankView, self.bank).original(index)
        number, row = self.bank.source(index)
        spec = mixed_sets(cast(FileOptions, self.options))[number]
        return reader_of(type(self), spec), spec.rows, cast(BankView, self.bank.sets[number].bank).original(row)

    @classmethod
    def check(cls, question: SeedQuestion) -> None:
        """UserError where the question's ground truth cannot be graded."""
        check_ground_truth(question)


def _prepared(question: SeedQuestion, task: type[FileTask], options: Any, finish: Prepare | None) -> SeedQuestion:
    prepared = task.prepare(question, options)
    return prepared if finish is None else finish(prepared)
