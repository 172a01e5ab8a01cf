"""What `env_config` may hold where questions are read from data: one set, or a list of sets that are mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from sharegrpo_rl.config.environment import EnvOptions, read_options
from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.data.loading import TableBank, check_bank, load_bank
from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS, allowed_transforms, dropped_transforms
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import ENVIRONMENTS, environment_spec
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth
from sharegrpo_rl.rewards.rubric import Rubric

# ---- Several banks as one: an epoch that holds them in the ratio of their weights, in an order that never changes.

LONGEST_EPOCH = 10_000_000  # questions; the order of an epoch is kept in memory
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MixedSet:
    """One bank of a mixture. `key` names it in errors, `label` stands before its questions' ids."""

    bank: QuestionBank
    key: str
    label: str


@dataclass(frozen=True)
class Order:
    """Which question stands where: of which set [L], its row there [L], and how often it stood before [L]."""

    sets: Rows
    rows: Rows
    passes: Rows

    def part(self, start: int, stop: int | None) -> Order:
        """The places `start` to `stop`."""
        return Order(self.sets[start:stop], self.rows[start:stop], self.passes[start:stop])


class MixtureBank:
    """A QuestionBank over several banks. Ids are unique: `label/id`, with `~2` behind it where a row comes again."""

    def __init__(self, split: str, sets: Sequence[MixedSet], order: Order) -> None:
        self.name = " + ".join(mixed.label for mixed in sets)
        self.split = split
        self.sets = tuple(sets)
        self._order = order

    def __len__(self) -> int:
        return len(self._order.sets)

    def __getitem__(self, index: int) -> SeedQuestion:
        number, row = self.source(index)
        question = self.sets[number].bank[row]
        again = int(self._order.passes[index])
        suffix = f"~{again + 1}" if again else ""
        return replace(question, id=f"{self.sets[number].label}/{question.id}{suffix}")

    def source(self, index: int) -> tuple[int, int]:
        """(set, row of its bank) of a question."""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        return int(self._order.sets[index]), int(self._order.rows[index])

    def place(self, index: int) -> str:
        """Where the question comes from (file and row), for error messages."""
        number, row = self.source(index)
        mixed = self.sets[number]
        place = getattr(mixed.bank, "place", None)
        return place(row) if place else f"{mixed.key} question {row}"


def mix_train(
    sets: Sequence[MixedSet],
    weights: Sequence[float] | None,
    *,
    seed: int = 0,
    skip: int = 0,
    most: int | None = None,
) -> MixtureBank:
    """One epoch of training questions: at most `most` of them, the first `skip` left out.

    Every row occurs, and the sets stand in the ratio of their weights (None = of their sizes): exactly over an epoch,
    nearly in every part of it. A set too small for its weight repeats, each time as a seeded permutation of all its
    rows. Rows among the skipped questions occur nowhere else; UserError where that leaves a set without rows.
    """
    sizes = [len(mixed.bank) for mixed in sets]
    counts = epoch_counts(sizes, weights)
    length = sum(counts)
    if length > LONGEST_EPOCH:
        raise UserError(
            f"env_config.data: with these weights an epoch that holds every row has {length:,} questions, "
            f"and {LONGEST_EPOCH:,} is the most; give the large sets more weight, or less max_questions of their own"
        )
    places = interleave(counts, derive_seed("mixture", "train", seed))
    skipped = np.bincount(places[:skip], minlength=len(sets))
    for mixed, size, gone in zip(sets, sizes, skipped, strict=True):
        if gone >= size:
            raise UserError(
                f"env_config.skip_questions: the first {skip} questions hold all {size} of {mixed.key} and none "
                "remains; lower it, or the warm start's rows, or the set's weight"
            )
    walks = [
        _walk(size, count, int(gone), derive_seed("mixture", seed, number))
        for number, (size, count, gone) in enumerate(zip(sizes, counts, skipped, strict=True))
    ]
    return MixtureBank("train", sets, _order(places, walks).part(skip, most))


def mix_test(sets: Sequence[MixedSet]) -> MixtureBank:
    """Every test question once, each set in its own order; all first parts hold the sets in the ratio of their sizes.

    The places are drawn, and the same in every run: a strict alternation of two sets would ask one of them in its even
    wordings only.
    """
    sizes = [len(mixed.bank) for mixed in sets]
    walks = [(np.arange(size), np.zeros(size, np.int64)) for size in sizes]
    return MixtureBank("test", sets, _order(interleave(sizes, derive_seed("mixture", "test")), walks))


def epoch_counts(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """How often each set is asked in an epoch: the shortest one that holds every row and keeps the ratio, rounded."""
    if weights is None:
        return list(sizes)
    scale = max(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(size, round(scale * weight)) for size, weight in zip(sizes, weights, strict=True)]


def interleave(counts: Sequence[int], seed: int) -> Rows:
    """The set of each place [sum of counts]: a set's k-th turn falls into the k-th of `count` equal parts, at random."""
    rng = np.random.default_rng(seed)
    times = [(np.arange(count) + rng.random(count)) / count for count in counts]
    sets = np.repeat(np.arange(len(counts)), counts)
    return sets[np.argsort(np.concatenate(times), kind="stable")]


def _walk(size: int, count: int, skipped: int, seed: int) -> tuple[Rows, Rows]:
    """Rows [count] of a set's turns, and how often each came before [count]; the first `skipped` rows never return."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(size)
    left = first[skipped:]
    more = -(-(count - size) // len(left))  # passes after the first one
    again = rng.permuted(np.tile(left, (more, 1)), axis=1).ravel()
    passes = np.concatenate([np.zeros(size, np.int64), np.repeat(np.arange(1, more + 1), len(left))])
    return np.concatenate([first, again])[:count], passes[:count]


def _order(places: Rows, walks: Sequence[tuple[Rows, Rows]]) -> Order:
    """The walks of all sets, dealt out to their places."""
    rows, passes = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    for number, (own_rows, own_passes) in enumerate(walks):
        own = places == number
        rows[own], passes[own] = own_rows, own_passes
    return Order(places, rows, passes)


OF_THE_RUN = ("skip_questions", "transform_text_position")  # settings that a set cannot have for itself
NOT_INHERITED = ("data", "kinds", "max_questions", *OF_THE_RUN)


class FileOptions(EnvOptions):
    """Options of every environment that reads a data set."""

    data: str | list[dict[str, Any]] = option(
        "", "the data set: a folder, a file, or a hub name; or a list of sets that are mixed"
    )
    kinds: list[str] = option([], "keep only these kinds of question (`subtask`); empty = all")
    columns: dict[str, str] = option({}, "field -> the data set's name of that column, where it is not a known one")
    test_fraction: float | None = option(
        None, "share of a data set with one file only that is its test split", ge=0, le=1
    )
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
    """What a set of a mixture may hold beside the keys of its environment."""

    weight: float | None = option(None, "its part of an epoch, beside the other sets' weights; null = its size")
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
    mixing = read_options(SetOptions, {k: v for k, v in table.items() if k in mixing_keys}, key)
    if mixing.weight is not None and not 0 < mixing.weight < float("inf"):
        raise UserError(f"{key}.weight: {mixing.weight:g} must be above 0; to leave the set out, remove it")
    options_type = _options_type(run, key, mixing.env)
    given = {k: v for k, v in table.items() if k not in mixing_keys}
    _check_keys(given, key, [*mixing_keys, *options_type.fields()])
    if not isinstance(given.get("data"), str) or not given["data"]:
        raise UserError(f"{key}.data: expected a folder, a file, or a hub name, got {given.get('data')!r}")
    shared = set(options_type.fields()) & set(run.fields()) - set(NOT_INHERITED)
    with _naming(key):
        rows = read_options(options_type, {**{name: getattr(run, name) for name in shared}, **given}, key)
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
            close = get_close_matches(str(name), known, n=1)
            free = [option for option in known if option not in OF_THE_RUN]
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(free)}"
            raise UserError(f"{key}.{name}: unknown key; {hint}")


# ---- Which rows of a data set are used: of the wanted kinds, in train a seeded subset, the warm start's left out.


def choose_rows(rows: QuestionBank, options: Any, split: str, key: str = "env_config") -> Sequence[int]:
    """Row numbers in file order: only the wanted kinds; in train at most `max_questions`."""
    chosen: Sequence[int] = range(len(rows))
    if options.kinds:
        kinds = kinds_of(rows)
        check_kinds(options.kinds, kinds, f"{rows.name} ({split})", key)
        chosen = [index for index in chosen if kinds[index] in options.kinds]
    if split == "train" and options.max_questions is not None and options.max_questions < len(chosen):
        random = Random(derive_seed("subset", options.subset_seed))
        chosen = sorted(random.sample(chosen, options.max_questions))
    return chosen


def kinds_of(rows: QuestionBank) -> list[str]:
    """The kind of every row."""
    return [rows[index].subtask for index in range(len(rows))]


def check_kinds(wanted: Sequence[str], found: Sequence[str], where: str, key: str) -> None:
    """UserError naming the first wanted kind that no row has, and those that there are."""
    if missing := [kind for kind in wanted if kind not in found]:
        known = ", ".join(sorted(set(found) - {""})) or "none: its rows have no subtask"
        raise UserError(f"{key}.kinds: {where} has no kind {missing[0]!r}; it has {known}")


def check_skip(skip: int, questions: int, where: str) -> None:
    """UserError where leaving out the first `skip` questions leaves none."""
    if skip >= questions:
        raise UserError(
            f"env_config.skip_questions: {skip} are left out of {questions} questions of "
            f"{where} and none remains; lower it, or the warm start's rows"
        )


# ---- The bank of a mixture: every set read, checked and prepared as its own environment wants it, then mixed.

if TYPE_CHECKING:
    pass


def load_mixture(own: type[FileTask], options: FileOptions, split: str, *, check: bool) -> MixtureBank:
    """The split of all sets of `env_config.data`; `own` is the run's environment. `check` reads each set once."""
    specs = mixed_sets(options)
    sets = _read(own, specs, options.kinds, split, check)
    if split != "train":
        return mix_test(sets)
    weights = [spec.mixing.weight for spec in specs if spec.mixing.weight is not None] or None
    epoch = sum(epoch_counts([len(mixed.bank) for mixed in sets], weights))
    length = min(epoch, options.max_questions or epoch)
    check_skip(options.skip_questions, length, "the mixture (train)")
    return mix_train(sets, weights, seed=options.subset_seed, skip=options.skip_questions, most=length)


def _read(
    own: type[FileTask], specs: Sequence[MixedSetOptions], kinds: Sequence[str], split: str, check: bool
) -> list[MixedSet]:
    """Every set's chosen rows, each with its task and its set's rewards."""
    readers = [reader_of(own, spec) for spec in specs]
    tables = [reader.open_rows(spec.rows, split) for reader, spec in zip(readers, specs, strict=True)]
    if kinds:
        specs = _narrowed(specs, tables, kinds, split)
    names = [spec.mixing.task or spec.name for spec in specs]
    sets = []
    for number, (reader, table, spec, name) in enumerate(zip(readers, tables, specs, names, strict=True)):
        chosen = choose_rows(table, spec.rows, split, spec.key)
        finish = partial(_named, spec=spec, name=name)
        label = name if Counter(names)[name] == 1 else f"{name}.{number}"
        sets.append(MixedSet(reader.read(table, chosen, spec.rows, check=check, finish=finish), spec.key, label))
    return sets


def reader_of(own: type[FileTask], spec: MixedSetOptions) -> type[FileTask]:
    """The environment whose checks, answer type and transforms apply to a set."""
    return own if spec.mixing.env is None else environment_spec(spec.mixing.env).load()  # type: ignore[return-value]


def _named(question: SeedQuestion, spec: MixedSetOptions, name: str) -> SeedQuestion:
    """The row with its task and its set's rewards."""
    return replace(question, task=spec.mixing.task or question.task or name, rewards=spec.mixing.rewards)


def _narrowed(
    specs: Sequence[MixedSetOptions], tables: Sequence[QuestionBank], kinds: Sequence[str], split: str
) -> list[MixedSetOptions]:
    """The run's kinds, on every set that names none of its own: each set keeps those that it has."""
    found = {spec.key: kinds_of(table) for spec, table in zip(specs, tables, strict=True) if not spec.own_kinds}
    check_kinds(kinds, [kind for own in found.values() for kind in own], f"the mixture ({split})", "env_config")
    narrowed = []
    for spec in specs:
        if not spec.own_kinds:
            own = [kind for kind in kinds if kind in found[spec.key]]
            if not own:
                raise UserError(
                    f"env_config.kinds: leaves no question of {spec.key} ({spec.rows.data}, {split}); "
                    f"remove the set, or give it {spec.key}.kinds"
                )
            spec = replace(spec, rows=spec.rows.model_copy(update={"kinds": own}))
        narrowed.append(spec)
    return narrowed


# ---- Environments over a data set from disk or hub: choice of rows, checks when loading, the task's own defaults.

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
        check_truth(question)


def _prepared(question: SeedQuestion, task: type[FileTask], options: Any, finish: Prepare | None) -> SeedQuestion:
    prepared = task.prepare(question, options)
    return prepared if finish is None else finish(prepared)
