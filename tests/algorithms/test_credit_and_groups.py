"""From picked questions to requests, from episodes to groups, from groups to packs: against hand-written tables."""

from collections import Counter
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config
from sharegrpo_rl.config import GRPOOptions, resolve
from sharegrpo_rl.data.types import Completion, Group, Prompt, Slot
from sharegrpo_rl.envs.registry import make_bank
from sharegrpo_rl.rewards.stages import shuffle_rewards
from sharegrpo_rl.rollouts.groups import completion_metrics, group_episodes, group_metrics, plan_requests

ROOT_HALF = 1 / sqrt(2)


def algorithm(name, **options):
    """The algorithm with its config and nothing started: credit needs no more."""
    made = object.__new__(ALGORITHMS[name])
    made.options, made.seed = resolve(name, options), 0
    return made


def make_group(rewards, number=0):
    rewards = np.array(rewards, np.float64)
    variants, samples = rewards.shape
    completions = tuple(
        tuple(
            Completion(np.array([number, v, i]), np.zeros(3, np.float32), f"{v}{i}", truncated=i == 0)
            for i in range(samples)
        )
        for v in range(variants)
    )
    return Group(
        number, f"q{number}", number, tuple(Slot(v, v) for v in range(variants)),
        tuple(Prompt(np.array([10 + v])) for v in range(variants)), completions, rewards,
        {"accuracy": rewards.round(), "format": np.ones_like(rewards)},
    )  # fmt: skip


TABLE = [[1.0, 0.0], [0.0, 0.0]]  # mean 1/4, sample spread 1/2; slot 0: mean 1/2, spread 1/sqrt(2); slot 1: equal


def texts(pack):
    return [c.text for c in pack.completions]


def test_grpo_packs():
    first, second = algorithm("GRPO").build_packs([make_group(TABLE)])
    assert texts(first) == ["00", "01"]
    assert first.advantages.tolist() == pytest.approx([ROOT_HALF, -ROOT_HALF], abs=1e-12)
    assert second.advantages.tolist() == [0, 0]
    assert all(p.native.all() for p in (first, second))
    assert [(p.group, p.slot, p.prompt.input_ids[0]) for p in (first, second)] == [(0, 0, 10), (0, 1, 11)]


def test_share_grpo_packs():
    first, second = algorithm("ShareGRPO").build_packs([make_group(TABLE)])
    assert texts(first) == texts(second) == ["00", "01", "10", "11"]
    assert first.native.tolist() == [True, True, False, False]
    assert second.native.tolist() == [False, False, True, True]
    assert first.advantages.tolist() == pytest.approx([1.5 + ROOT_HALF, -0.5 - ROOT_HALF, -0.5, -0.5], abs=1e-12)
    assert second.advantages.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-12)
    assert [p.prompt.input_ids[0] for p in (first, second)] == [10, 11]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"pairing": "native"}, [1.5 + ROOT_HALF, -0.5 - ROOT_HALF], [-0.5, -0.5]),
        ({"advantage_levels": "global"}, [1.5, -0.5, -0.5, -0.5], [1.5, -0.5, -0.5, -0.5]),
        ({"advantage_levels": "local"}, [ROOT_HALF, -ROOT_HALF, 0, 0], [0, 0, 0, 0]),
        ({"scale_rewards": "none"}, [0.75 + 0.5, -0.25 - 0.5, -0.25, -0.25], [0.75, -0.25, -0.25, -0.25]),
        (
            {"duplicate_rewards": True, "advantage_levels": "global"},  # spread sqrt(2 * 0.75 / 7)
            [0.75 / sqrt(1.5 / 7)] + [-0.25 / sqrt(1.5 / 7)] * 3,
            [0.75 / sqrt(1.5 / 7)] + [-0.25 / sqrt(1.5 / 7)] * 3,
        ),
    ],
)
def test_share_grpo_options(options, first, second):
    packs = algorithm("ShareGRPO", **options).build_packs([make_group(TABLE)])
    assert packs[0].advantages.tolist() == pytest.approx(first, abs=1e-12)
    assert packs[1].advantages.tolist() == pytest.approx(second, abs=1e-12)


REWARD = st.sampled_from([0.0, 0.1, 0.9, 1.0])


@given(st.lists(REWARD, min_size=2, max_size=8))
def test_share_grpo_of_one_variant_is_grpo(rewards):
    (one,), (other,) = (algorithm(n).build_packs([make_group([rewards])]) for n in ("ShareGRPO", "GRPO"))
    assert one.advantages.tolist() == other.advantages.tolist()
    assert one.native.tolist() == other.native.tolist()
    assert texts(one) == texts(other)
    (doubled,) = algorithm("ShareGRPO", single_variant_doubles=True).build_packs([make_group([rewards])])
    assert doubled.advantages.tolist() == pytest.approx((2 * other.advantages).tolist(), abs=1e-12)


@given(st.integers(2, 4), st.integers(2, 4), st.randoms(use_true_random=False))
def test_every_pair_of_prompt_and_completion_once(variants, samples, random):
    rewards = [[random.choice([0.0, 0.1, 1.0]) for _ in range(samples)] for _ in range(variants)]
    packs = algorithm("ShareGRPO").build_packs([make_group(rewards)])
    pairs = Counter((p.slot, c.text) for p in packs for c in p.completions)
    assert len(pairs) == variants**2 * samples
    assert set(pairs.values()) == {1}
    for p in packs:
        assert [c.text for c, n in zip(p.completions, p.native, strict=True) if n] == [
            f"{p.slot}{i}" for i in range(samples)
        ]


def test_shrunk_groups_make_fewer_packs():
    packs = algorithm("ShareGRPO", num_variants=3).build_packs([make_group(TABLE), make_group([[0.1, 1.0]], 1)])
    assert [p.group for p in packs] == [0, 0, 1]
    assert len(packs[2].completions) == 2


@given(st.lists(st.lists(REWARD, min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99))
def test_shuffled_rewards_keep_their_multiset(rewards, seed):
    group = make_group(rewards)
    shuffled = shuffle_rewards(group, seed)
    assert sorted(shuffled.rewards.ravel()) == sorted(group.rewards.ravel())
    assert shuffled.rewards.shape == group.rewards.shape
    assert shuffled.reward_parts is group.reward_parts
    assert np.array_equal(shuffle_rewards(group, seed).rewards, shuffled.rewards)


def test_shuffled_rewards_depend_on_seed_and_group():
    group = make_group([np.arange(8.0), np.arange(8.0, 16.0)])
    orders = {tuple(shuffle_rewards(g, s).rewards.ravel()) for s in range(5) for g in (group, replace(group, group=1))}
    assert len(orders) == 10


# ---- requests and episodes

ENV = {"kinds": ["counting"], "num_wordings": 3, "max_questions": 20}


@pytest.fixture(scope="module")
def bank():
    return make_bank("DrawnShapes-v0", ENV, "train")


def test_requests_of_an_iteration(bank):
    options = resolve("ShareGRPO", {"num_generations": 4})
    requests = plan_requests(bank, [(0, 3), (0, 5)], options, 0, iteration=2)
    assert [(r.group, r.question_index, r.slot.slot, r.num_generations) for r in requests] == [
        (0, 3, 0, 4), (0, 3, 1, 4), (1, 5, 0, 4), (1, 5, 1, 4),
    ]  # fmt: skip
    assert requests == plan_requests(bank, [(0, 3), (0, 5)], options, 0, iteration=2)
    assert all(r.slot.variant_index == 0 for r in requests if r.slot.slot == 0)
    assert len({r.sampling_seed for r in requests}) == 4


def test_seeds_change_with_everything(bank):
    def seeds(seed=0, epoch=0, iteration=0):
        return {r.sampling_seed for r in plan_requests(bank, [(epoch, 0), (epoch, 1)], GRPOOptions(), seed, iteration)}

    variants = [seeds(), seeds(seed=1), seeds(epoch=1), seeds(iteration=1)]
    assert len(set.union(*variants)) == 8


@pytest.fixture(scope="module")
def runner(policy):
    """A real env runner whose engine says the sample's number."""
    from types import SimpleNamespace

    from scripted import ScriptedGenerator

    from sharegrpo_rl.rollouts.env_runner import QAEnvRunner

    class Scripted(QAEnvRunner):
        def make_generator(self):
            return ScriptedGenerator(policy, lambda prompt, i: f"<think>a</think><answer>{i}</answer>")

    options = {"env_config": ENV, "num_generations": 4, "max_completion_tokens": 64, "format_prompt": ""}
    config = build_config("ShareGRPO", "DrawnShapes-v0", options, 0)
    made = Scripted(config=config)
    made.share_module(SimpleNamespace(policy=policy))
    return made


def test_a_question_twice_in_one_iteration_keeps_its_groups_apart(bank, runner):
    requests = plan_requests(bank, [(0, 3), (1, 3)], runner.options, 0, 0)
    groups = group_episodes(runner.sample(requests=requests))
    assert [g.group for g in groups] == [0, 1]
    assert [g.question_index for g in groups] == [3, 3]
    assert all(g.rewards.shape == (len(g.slots), 4) for g in groups)


@settings(max_examples=5)
@given(st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_episodes(bank, runner, random):
    episodes = runner.sample(requests=plan_requests(bank, [(0, 3), (0, 7), (1, 3)], runner.options, 0, 0))
    expected = group_episodes(episodes)
    random.shuffle(episodes)
    for one, other in zip(expected, group_episodes(episodes), strict=True):
        assert (one.group, one.question_id, one.slots) == (other.group, other.question_id, other.slots)
        assert np.array_equal(one.rewards, other.rewards)
        assert [[c.text for c in s] for s in one.completions] == [[c.text for c in s] for s in other.completions]


def test_episodes_carry_the_true_rewards(bank, runner):
    (group,) = group_episodes(runner.sample(requests=plan_requests(bank, [(0, 3)], runner.options, 0, 0)))
    answer = bank[3].answer
    for slot in range(len(group.slots)):
        expected = [1.0 if str(i) == answer else 0.0 for i in range(4)]
        assert group.accuracies[slot].tolist() == expected
        assert group.rewards[slot].tolist() == pytest.approx([0.9 * a + 0.1 for a in expected], abs=1e-9)
    assert group.reward_parts["format"].min() == 1
    episode = runner.sample(requests=plan_requests(bank, [(0, 3)], runner.options, 0, 0))[0]
    assert episode.is_terminated
    assert len(episode) == 1


def test_metrics_by_hand():
    groups = [make_group(TABLE), make_group([[0.1, 0.1], [0.1, 0.1]], 1)]
    found = group_metrics(groups, num_variants=3)
    assert (found["valid_advantage_ratio"], found["valid_slot_ratio"]) == (0.5, 0.25)
    assert (found["reward_density"], found["solved_ratio"]) == (1 / 8, 0.5)
    assert (found["num_groups"], found["shrunk_groups"], found["transformed_slots"]) == (2, 2, 0)
    made = completion_metrics(groups, [None, "processor time: more than 2 s", "crash: it died"])
    assert made["reward_mean"] == pytest.approx(1.4 / 8, abs=1e-12)
    assert (made["num_completions"], made["sampled_tokens"], made["truncated_rate"]) == (8, 24, 0.5)
    assert made["grader_errors"] == 2
    by_kind = {"processor_time": 1, "wall_clock": 0, "crash": 1, "library_error": 0, "unexpected": 0}
    assert made["grader_errors_by_kind"] == by_kind


def test_metrics_of_each_task_where_there_are_several():
    counting, geometry = make_group(TABLE), make_group([[1.0, 1.0], [0.1, 0.1]], 1)
    groups = [
        replace(counting, task="counting"),
        replace(geometry, task="geometry"),
        replace(geometry, task="geometry"),
    ]
    found = group_metrics(groups, num_variants=2)["tasks"]
    assert found["counting"] == pytest.approx(
        {"accuracy": 0.25, "reward_mean": 0.25, "valid_advantage_ratio": 1.0, "reward_density": 0.25}
    )
    assert found["geometry"] == pytest.approx(
        {"accuracy": 0.5, "reward_mean": 0.55, "valid_advantage_ratio": 1.0, "reward_density": 0.5}
    )
    assert "tasks" not in group_metrics(groups[1:], num_variants=2)
    assert set(group_metrics([counting, groups[1]], num_variants=2)["tasks"]) == {"unnamed", "geometry"}


def test_metrics_of_each_kind_where_there_are_several():
    mixed, solved = make_group(TABLE), make_group([[1.0, 1.0], [1.0, 1.0]], 1)
    groups = [replace(mixed, subtask="form"), replace(solved, subtask="form"), replace(solved, subtask="color")]
    found = group_metrics(groups, num_variants=2)["kinds"]
    assert found["form"] == pytest.approx(
        {"num_groups": 2, "valid_advantage_ratio": 0.5, "reward_density": 5 / 8, "solved_ratio": 1.0}
    )
    assert found["color"]["valid_advantage_ratio"] == 0.0
    assert "kinds" not in group_metrics(groups[:2], num_variants=2)


def test_groups_carry_their_task(bank, runner):
    (group,) = group_episodes(runner.sample(requests=plan_requests(bank, [(0, 3)], runner.options, 0, 0)))
    assert (group.task, group.subtask) == ("drawn_shapes", "counting")
