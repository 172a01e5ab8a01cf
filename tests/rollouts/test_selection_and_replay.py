"""Selection of groups and replay of completions, without a model."""

import numpy as np
import pytest

from sharegrpo_rl.config import GRPOOptions, ShareGRPOOptions
from sharegrpo_rl.config.registry import SELECTIONS
from sharegrpo_rl.data.types import Completion, Group, Prompt, PromptPack, Slot
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rollouts.selection import ReplayBuffer, RolloutBatch, select_groups


def completion(tag):
    return Completion(np.array([tag, 1]), np.array([-0.5, -0.1], np.float32), str(tag))


def group(number, accuracies):
    values = np.array([accuracies], float)
    answers = tuple(completion(100 * number + i) for i in range(values.shape[1]))
    prompt = Prompt(np.array([number]))
    return Group(number, f"q{number}", 10 + number, (Slot(0, 0),), (prompt,), (answers,), values, {"accuracy": values})


def options_of(**options):
    few = {"selection": "dynamic_sampling", "num_questions": 3, "max_generation_batches": 4, "num_generations": 2}
    return GRPOOptions(**{**few, **options})


def select(source, options):
    return select_groups(source, SELECTIONS.load(options.selection), options)


class Source:
    """Hands out batches of three groups; `pattern` says for each question which accuracies come."""

    def __init__(self, *batches):
        self.batches, self.calls = batches, []

    def __call__(self, first):
        self.calls.append(first)
        groups = [group(first + i, a) for i, a in enumerate(self.batches[len(self.calls) - 1])]
        return RolloutBatch(groups, groups, len(groups), [None] * len(groups))


MIXED, RIGHT, WRONG = (1, 0), (1, 1), (0, 0)


def test_batches_are_sampled_until_enough_groups_differ():
    source = Source([MIXED, RIGHT, WRONG], [WRONG, MIXED, RIGHT], [MIXED, MIXED, MIXED], [MIXED] * 3)
    sampled = select(source, options_of())
    assert source.calls == [0, 3, 6]
    assert [g.group for g in sampled.trained] == [0, 4, 6]
    assert (sampled.batches, sampled.surplus, len(sampled.groups), sampled.requests) == (3, 2, 9, 9)
    assert sampled.metrics()["kept_ratio"] == pytest.approx(5 / 9)


def test_at_the_cap_training_goes_on_with_what_there_is():
    source = Source([MIXED, RIGHT, WRONG], [WRONG] * 3)
    sampled = select(source, options_of(max_generation_batches=2))
    assert [g.group for g in sampled.trained] == [0]
    with pytest.raises(UserError, match=r"after 2 generation batches 1 of 3 groups pass dynamic_sampling"):
        select(Source([MIXED, RIGHT, WRONG], [WRONG] * 3), options_of(max_generation_batches=2, selection_strict=True))


def test_no_group_at_all_is_not_an_error():
    assert select(Source([WRONG] * 3), options_of(max_generation_batches=1)).trained == []


def test_well_formed_but_all_wrong_groups_do_not_pass():
    """The rule looks at accuracy, whatever the format reward adds to the total."""
    source = Source([WRONG] * 3)
    sampled = select(source, options_of(max_generation_batches=1))
    assert sampled.trained == []


def test_the_band_of_the_online_filter():
    source = Source([(1, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0)], [WRONG * 2] * 3)
    sampled = select(source, options_of(selection="online_filter", filter_low=0.3, max_generation_batches=2))
    assert [g.group for g in sampled.trained] == [2]


def test_without_selection_one_batch_is_all():
    source = Source([WRONG, RIGHT, MIXED])
    assert len(select(source, options_of(selection="none")).trained) == 3
    assert source.calls == [0]


def pack(of, advantages):
    answers = of.completions[0]
    return PromptPack(of.group, 0, of.prompts[0], answers, np.array(advantages, float), np.ones(len(answers), bool))


def rendered(requests):
    return [Prompt(np.array([1000 + r.question_index])) for r in requests]


LEARNERS = {pair: np.full(1, -0.1 * pair, np.float32) for pair in range(4)}


def two_iterations(**options):
    buffer = ReplayBuffer(8)
    first = [group(0, MIXED), group(1, RIGHT)]
    packs = [pack(first[0], (1.0, -3.0)), pack(first[1], (0, 0))]
    buffer.add(packs, first, LEARNERS, 0)
    later = [group(0, RIGHT), group(1, MIXED)]
    packs = [pack(later[0], (0, 0)), pack(later[1], (0.5, -0.5))]
    return buffer, packs, options_of(num_questions=2, **options)


def test_replayed_completions_stand_in_for_groups_without_advantage():
    buffer, packs, options = two_iterations()
    filled = buffer.fill(packs, options, 0, 1, rendered)
    assert filled[0] is packs[1]
    replayed = filled[1:]
    assert {p.group for p in replayed} == {0}
    assert sum(len(p.completions) for p in replayed) == 2
    for p in replayed:
        assert p.prompt.input_ids.tolist() == [1010]
        for answer, advantage, old in zip(p.completions, p.advantages, p.old_logprobs, strict=True):
            assert {"0": 1.0, "1": -3.0}[answer.text] == advantage
            assert old is LEARNERS[int(answer.text)]
    assert buffer.metrics(1) == {"size": 2, "drawn": 2, "age_mean": 1.0}


def test_missing_groups_are_filled_too_and_an_empty_buffer_changes_nothing():
    buffer, packs, options = two_iterations()
    options = options.model_copy(update={"num_questions": 4})
    filled = buffer.fill(packs[1:], options, 0, 1, rendered)
    assert len({p.group for p in filled}) == 4
    assert ReplayBuffer(8).fill(packs, options, 0, 1, rendered) == packs


def test_draws_follow_the_size_of_the_advantage():
    buffer, packs, options = two_iterations(num_generations=4000)
    (drawn,) = buffer.fill(packs, options, 0, 1, rendered)[1:]
    share = np.mean(drawn.advantages == -3.0)
    assert share == pytest.approx(0.75, abs=0.03)


def test_without_replacement_only_as_many_groups_are_replaced_as_the_buffer_fills():
    buffer, packs, options = two_iterations(replay_replacement=False)
    (once,) = buffer.fill(packs, options, 0, 1, rendered)[1:]
    assert sorted(once.advantages) == [-3.0, 1.0]
    assert buffer.fill(packs, options.model_copy(update={"num_generations": 3}), 0, 1, rendered) == packs


@pytest.mark.parametrize(("pairing", "pairs"), [("all", 8), ("native", 4)])
def test_a_replayed_group_has_as_many_pairs_as_a_whole_one(pairing, pairs):
    buffer, packs, _ = two_iterations()
    options = ShareGRPOOptions(num_questions=2, num_variants=2, num_generations=2, pairing=pairing)
    replayed = [p for p in buffer.fill(packs, options, 0, 1, rendered) if p.group == 0]
    assert sum(len(p.completions) for p in replayed) == pairs


def test_draws_repeat_and_the_buffer_s_state_is_whole():
    buffer, packs, options = two_iterations(num_generations=6)
    again = ReplayBuffer(8)
    again.set_state(buffer.get_state())
    for one, other in zip(
        buffer.fill(packs, options, 0, 1, rendered), again.fill(packs, options, 0, 1, rendered), strict=True
    ):
        assert one.advantages.tolist() == other.advantages.tolist()
        assert [a.text for a in one.completions] == [a.text for a in other.completions]
    assert buffer.fill(packs, options, 0, 2, rendered)[1].advantages.tolist() != []


def test_shared_completions_are_not_kept():
    buffer = ReplayBuffer(8)
    of = group(0, MIXED)
    shared = PromptPack(0, 0, of.prompts[0], of.completions[0], np.array([1.0, -1.0]), np.array([True, False]))
    buffer.add([shared], [of], LEARNERS, 0)
    assert [e.completion.text for e in buffer.entries] == ["0"]
