"""Environments over data sets: `env_config.data` names one, or a list of sets that are mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from pydantic import model_validator

from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.data.loading import TableBank, load_bank
from sharegrpo_rl.data.mixture import MixedSet, MixtureBank, epoch_counts, mix_test, mix_train
from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS, allowed_transforms, dropped_transforms
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import BankView, check_skip
from sharegrpo_rl.envs.multimodal_qa import EnvOptions, MultimodalQAEnv
from sharegrpo_rl.envs.registry import ENVIRONMENTS, environment_spec
from sharegrpo_rl.errors import UserError, did_you_mean
from sharegrpo_rl.rewards.rubric import Rubric

OF_THE_RUN = ("skip_questions", "transform_text_position", "noise_pixels")  # settings that a set cannot have for itself
NOT_INHERITED = ("data", "kinds", "max_questions", *OF_THE_RUN)


class FileOptions(EnvOptions):
    """Options of every environment that reads a data set."""

    data: str | list[dict[str, Any]] = option(
        "", "the data set: a folder, a file, or a hub name; or a list of sets that are mixed"
    )
    kinds: list[str] = option([], "keep only these kinds of question (`subtask`); empty = all")
    columns: dict[str, str | None] = option(
        {}, "field -> the name of its column, if it is not one of the known names; null = no column holds it"
    )
    test_fraction: float | None = option(None, "share of a single-file data set to use as its test split", ge=0, le=1)
    hub_config: str | None = option(None, "configuration of a hub data set")
    benchmark: str | None = option(
        None, "the layout of a published benchmark's file, such as mathvista; null = plain columns"
    )
    template_wordings: bool = option(False, "add rule-based wordings to questions that fit a template")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.benchmark is not None:
            find_layout(self.benchmark)
        if isinstance(self.data, list):
            mixed_sets(self)
        return self


class SetOptions(Options):
    """The keys of a set of a mixture, besides those of its environment."""

    weight: float | None = option(None, "its share of an epoch, relative to the other sets' weights; null = its size")
    task: str | None = option(None, "the name of its curve; null = its rows' own `task`, else its folder's name")
    env: str | None = option(None, "whose checks, answer type and transforms apply to its rows; null = the run's env")
    rewards: dict[str, float] | None = option(
        None, "weight of each registered reward on its rows; null = the run's rewards"
    )


@dataclass(frozen=True)
class MixedSetOptions:
    """One entry of the list `env_config.data`: its `key` (`env_config.data[1]`), its own options, and those of its rows."""

    key: str
    mixing: SetOptions
    rows: FileOptions
    own_kinds: bool

    @property
    def name(self) -> str:
        """What the data is called: its folder, its file without split and ending, or the end of its hub name."""
        path = Path(str(self.rows.data))
        bare = path.name.removesuffix(".jsonl").removesuffix(".parquet")
        return path.resolve().parent.name if bare in ("train", "test") and bare != path.name else bare


def mixed_sets(run: FileOptions) -> list[MixedSetOptions]:
    """The sets of a list `env_config.data`, checked without opening any; what a set leaves out it takes from the run."""
    if not isinstance(run.data, list) or not run.data:
        raise UserError("env_config.data: the list is empty; name at least one set, such as {data: PATH}")
    sets = [_read_set(run, f"env_config.data[{number}]", table) for number, table in enumerate(run.data)]
    weighted = [mixed.mixing.weight is not None for mixed in sets]
    if any(weighted) and not all(weighted):
        missing = sets[weighted.index(False)]
        raise UserError(
            f"{missing.key}.weight: missing; give every set a weight, or none (then each counts by its size)"
        )
    return sets


def _read_set(run: FileOptions, key: str, table: Any) -> MixedSetOptions:
    if not isinstance(table, Mapping):
        raise UserError(f"{key}: expected a table such as {{data: PATH, weight: 1, task: NAME}}, got {table!r}")
    mixing_keys = list(SetOptions.fields())
    mixing = check_at(f"{key}.", SetOptions, {k: v for k, v in table.items() if k in mixing_keys})
    if mixing.weight is not None and not 0 < mixing.weight < float("inf"):
        raise UserError(f"{key}.weight: {mixing.weight:g} must be above 0; to leave the set out, remove it")
    options_type = _options_type(run, key, mixing.env)
    given = {k: v for k, v in table.items() if k not in mixing_keys}
    _check_keys(given, key, [*mixing_keys, *options_type.fields()])
    if not isinstance(given.get("data"), str) or not given["data"]:
        raise UserError(f"{key}.data: expected a folder, a file, or a hub name, got {given.get('data')!r}")
    shared = set(options_type.fields()) & set(run.fields()) - set(NOT_INHERITED)
    with _naming(key):
        rows = check_at(f"{key}.", options_type, {**{name: getattr(run, name) for name in shared}, **given})
    if mixing.rewards is not None:
        with _naming(f"{key}.rewards"):
            Rubric(mixing.rewards)
    return MixedSetOptions(key, mixing, rows, "kinds" in given)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Put the key before an error that does not name it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(key) else f"{key}: {error}") from None


def _options_type(run: FileOptions, key: str, env: str | None) -> type[FileOptions]:
    """Options of the set's environment, which must be one that reads data."""
    if env is None:
        return type(run)
    try:
        options = environment_spec(env).options
    except UserError as error:
        raise UserError(f"{key}.{error}") from None
    if not issubclass(options, FileOptions):
        readers = [name for name, spec in ENVIRONMENTS.items() if issubclass(spec.options, FileOptions)]
        raise UserError(f"{key}.env: {env} makes its own questions and reads no data; choose from {', '.join(readers)}")
    return options


def _check_keys(given: Mapping[str, Any], key: str, known: list[str]) -> None:
    for name in given:
        if name in OF_THE_RUN:
            raise UserError(f"{key}.{name}: belongs to the whole mixture; set env_config.{name}")
        if name not in known:
            hint = did_you_mean(name, known, f"known keys: {', '.join(k for k in known if k not in OF_THE_RUN)}")
            raise UserError(f"{key}.{name}: unknown key; {hint}")


class FileTask(MultimodalQAEnv):
    """A task whose questions are in a data set. A subclass sets the class variables, or overrides `check`."""

    options_type: ClassVar[type[EnvOptions]] = FileOptions
    answer_type: ClassVar[str | None] = None  # of rows that name none
    transforms: ClassVar[tuple[str, ...] | None] = None  # requested by default; the word rule still applies

    @classmethod
    def load_bank(cls, options: Any, split: str) -> QuestionBank:
        """The rows that are used, of one set or of a mixture."""
        if isinstance(options.data, list):
            return _load_mixture(cls, options, split)
        return super().load_bank(options, split)

    def read_banks(self) -> list[tuple[QuestionBank, type[MultimodalQAEnv]]]:
        """Of a mixture each set, whose rows its own environment checks, so that rows which come again are read once."""
        if not isinstance(self.bank, MixtureBank):
            return super().read_banks()
        specs = mixed_sets(cast(FileOptions, self.options))
        return [(mixed.bank, _reader_of(type(self), spec)) for mixed, spec in zip(self.bank.sets, specs, strict=True)]

    @classmethod
    def questions(cls, options: Any, split: str) -> QuestionBank:
        """The rows of `env_config.kinds`, prepared."""
        if not options.data:
            raise UserError(f"env_config.data: {cls.id} needs a data set: a folder, a file, or a hub name")
        return cls.prepare_rows(cls.open_rows(options, split), options)

    @classmethod
    def open_rows(cls, options: Any, split: str) -> TableBank:
        """All rows of the split, unchanged."""
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
    def prepare_rows(cls, rows: QuestionBank, options: Any, key: str = "env_config") -> BankView:
        """The rows of the requested kinds, each prepared; `key` is where `options` come from, for error messages."""
        indices: Sequence[int] = range(len(rows))
        if options.kinds:
            kinds = _kinds_of(rows)
            _check_kinds(options.kinds, kinds, f"{rows.name} ({rows.split})", key)
            indices = [index for index in indices if kinds[index] in options.kinds]
        return BankView(rows, indices, partial(cls.prepare, options=options))

    @classmethod
    def prepare(cls, question: SeedQuestion, options: Any) -> SeedQuestion:
        """A row with the task's defaults filled in."""
        return replace(
            question,
            answer_type=question.answer_type or ("multiple_choice" if question.choices else cls.answer_type),
            transforms=allowed_transforms(question, cls._requested_transforms(options)),
        )

    @classmethod
    def _requested_transforms(cls, options: Any) -> tuple[str, ...]:
        if options.transforms is not None:
            return tuple(options.transforms)
        return DEFAULT_TRANSFORMS if cls.transforms is None else cls.transforms

    def dropped_transforms(self, index: int) -> dict[str, str]:
        """Every known transform that this question never gets: not requested, or forbidden by row or word rule."""
        task, options, question = self._origin(index)
        requested = task._requested_transforms(options)
        reasons = {name: "not listed in env_config.transforms" for name in TRANSFORMS if name not in requested}
        return reasons | dropped_transforms(question, requested)

    def _origin(self, index: int) -> tuple[type[FileTask], Any, SeedQuestion]:
        """The environment and the options that a question was read by, and the question as its data set has it."""
        if not isinstance(self.bank, MixtureBank):
            return type(self), self.options, cast(BankView, self.bank).original(index)
        number, row = self.bank.source(index)
        spec = mixed_sets(cast(FileOptions, self.options))[number]
        return _reader_of(type(self), spec), spec.rows, cast(BankView, self.bank.sets[number].bank).original(row)


def _kinds_of(rows: QuestionBank) -> list[str]:
    return [rows[index].subtask for index in range(len(rows))]


def _check_kinds(requested: Sequence[str], kinds: Sequence[str], where: str, key: str) -> None:
    """UserError naming the first requested kind that no row has, and those that there are."""
    if missing := [kind for kind in requested if kind not in kinds]:
        known = ", ".join(sorted(set(kinds) - {""})) or "none: its rows have no subtask"
        raise UserError(f"{key}.kinds: {where} has no kind {missing[0]!r}; it has {known}")


def _load_mixture(env: type[FileTask], options: FileOptions, split: str) -> MixtureBank:
    """The split of all sets of `env_config.data`, each read and prepared as its own environment does it.

    `env` is the run's environment, which reads the sets that name none.
    """
    specs = mixed_sets(options)
    readers = [_reader_of(env, spec) for spec in specs]
    tables = [reader.open_rows(spec.rows, split) for reader, spec in zip(readers, specs, strict=True)]
    if options.kinds:
        specs = _narrow_kinds(specs, tables, options.kinds, split)
    names = [spec.mixing.task or spec.name for spec in specs]
    sets = []
    for number, (reader, table, spec, name) in enumerate(zip(readers, tables, specs, names, strict=True)):
        bank = reader.used_questions(reader.prepare_rows(table, spec.rows, spec.key), spec.rows)
        tagged = BankView(bank, range(len(bank)), partial(_tag, spec=spec, name=name))
        sets.append(MixedSet(tagged, spec.key, name if Counter(names)[name] == 1 else f"{name}.{number}"))
    if split != "train":
        return mix_test(sets)
    weights = [spec.mixing.weight for spec in specs if spec.mixing.weight is not None] or None
    epoch = sum(epoch_counts([len(mixed.bank) for mixed in sets], weights))
    length = min(epoch, options.max_questions or epoch)
    check_skip(options.skip_questions, length, "the mixture (train)")
    return mix_train(sets, weights, seed=options.subset_seed, skip=options.skip_questions, limit=length)


def _reader_of(env: type[FileTask], spec: MixedSetOptions) -> type[FileTask]:
    """The environment whose checks, answer type and transforms apply to a set."""
    return env if spec.mixing.env is None else environment_spec(spec.mixing.env).load()  # type: ignore[return-value]


def _tag(question: SeedQuestion, spec: MixedSetOptions, name: str) -> SeedQuestion:
    """The row with its task and its set's rewards."""
    return replace(question, task=spec.mixing.task or question.task or name, rewards=spec.mixing.rewards)


def _narrow_kinds(
    specs: Sequence[MixedSetOptions], tables: Sequence[QuestionBank], kinds: Sequence[str], split: str
) -> list[MixedSetOptions]:
    """The specs with the run's kinds in every set that names none itself: each set keeps those that it has."""
    kinds_of = {spec.key: _kinds_of(table) for spec, table in zip(specs, tables, strict=True) if not spec.own_kinds}
    _check_kinds(kinds, [kind for rows in kinds_of.values() for kind in rows], f"the mixture ({split})", "env_config")
    narrowed = []
    for spec in specs:
        if not spec.own_kinds:
            kept = [kind for kind in kinds if kind in kinds_of[spec.key]]
            if not kept:
                raise UserError(
                    f"env_config.kinds: leaves no question of {spec.key} ({spec.rows.data}, {split}); "
                    f"remove the set, or give it {spec.key}.kinds"
                )
            spec = replace(spec, rows=spec.rows.model_copy(update={"kinds": kept}))
        narrowed.append(spec)
    return narrowed


class VisualCountingEnv(FileTask):
    """Counting questions: turned, mirrored or noisy images hold as many things, unless the text names directions."""

    id = "VisualCounting-v0"
    answer_type = "numeric"
    transforms = tuple(TRANSFORMS)

    @classmethod
    def check(cls, question: SeedQuestion) -> None:
        """The answer must be a whole number, zero or more."""
        if not question.answer.strip().isdecimal():
            raise UserError(
                f"the answer {question.answer!r} is not a whole number, as {cls.id} needs it; "
                "drop the row, choose env_config.kinds, or use MultimodalQA-v0"
            )
        super().check(question)


class GeometryQAEnv(FileTask):
    """Plane geometry with a diagram; noise only, since turned and mirrored letters would change the diagram."""

    id = "GeometryQA-v0"
    answer_type = "numeric"
    transforms = DEFAULT_TRANSFORMS


class MathQAEnv(FileTask):
    """Mathematical problems: expressions, numbers, words or choices as answers; noise is the only transform."""

    id = "MathQA-v0"
    transforms = DEFAULT_TRANSFORMS


class AnyDatasetEnv(FileTask):
    """Questions of any data set; the type of each answer comes from the row or from the answer itself."""

    id = "MultimodalQA-v0"
