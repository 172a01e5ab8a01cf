"""The bank of a mixture: every set read, checked and prepared as its own environment wants it, then mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sharegrpo_rl.data.mixture import MixedSet, MixtureBank, epoch_counts, mix_test, mix_train
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.file_options import FileOptions, MixedSetOptions, mixed_sets
from sharegrpo_rl.envs.registry import environment_spec
from sharegrpo_rl.envs.row_choice import check_kinds, check_skip, choose_rows, kinds_of
from sharegrpo_rl.errors import UserError

if TYPE_CHECKING:
    from sharegrpo_rl.envs.file_task import FileTask


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
            spec = replace(spec, rows=replace(spec.rows, kinds=own))
        narrowed.append(spec)
    return narrowed
