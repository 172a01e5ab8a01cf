"""Generated arithmetic: pure, right, balanced, and with number facts that no training question uses."""

import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.envs.registry import check_env_config, make_bank
from sharegrpo_rl.envs.tasks.arithmetic import HELD_OUT, KINDS, SEEN, ArithmeticBank, divide, held_out_facts
from sharegrpo_rl.errors import UserError

ALL = tuple(KINDS)
SIGNS = {"addition": "+", "subtraction": "-", "multiplication": "*"}


def numbers(text):
    return tuple(map(int, re.findall(r"\d+", text)))


def questions(split="train", number=600, kinds=ALL, **options):
    bank = ArithmeticBank(split, kinds, **options)
    return [bank[index] for index in range(number)]


@given(st.sampled_from(["train", "test"]), st.integers(0, 1999), st.integers(5, 60), st.integers(0, 3))
@settings(max_examples=50)
def test_a_question_is_a_function_of_split_and_index(split, index, largest, seed):
    first, again = (ArithmeticBank(split, ALL[:1], largest, held_out_seed=seed)[index] for _ in range(2))
    assert first == again
    assert all(1 <= number <= largest for number in numbers(first.question))


def test_answers_are_right_in_every_wording():
    for question in questions():
        a, b = numbers(question.question)
        assert question.answer == str(eval_plainly(a, SIGNS[question.subtask], b))
        assert question.solution == f"{a} {SIGNS[question.subtask]} {b} = {question.answer}"
        assert not question.images
        for wording in question.wordings:
            assert sorted(numbers(wording)) == sorted((a, b))
        if question.subtask == "subtraction":
            order = [numbers(wording) for wording in question.wordings]
            assert [shown for shown, text in zip(order, question.wordings, strict=True) if "Take" not in text] == (
                [(a, b)] * (len(order) - 1)
            )


def eval_plainly(a, sign, b):
    """Counting, not calculating: the bank's own arithmetic is what is tested."""
    if sign == "*":
        return sum(a for _ in range(b))
    return len(range(a)) + len(range(b)) if sign == "+" else len(range(b, a))


def test_the_plain_wording_comes_first_and_all_differ():
    for question in questions(number=30):
        assert f" {SIGNS[question.subtask]} " in question.wordings[0]
        assert len(set(question.wordings)) == len(question.wordings) == 5
    assert len(questions(number=1, num_wordings=2)[0].wordings) == 2


def used_facts(question):
    """Every unordered pair that stands in a question or, for a difference, in the sum behind it."""
    a, b = sorted(numbers(question.question))
    return {(a, b)} if "subtraction" not in question.subtask else {(a, b), tuple(sorted((a, b - a)))}


@pytest.mark.parametrize(("largest", "seed"), [(10, 0), (20, 0), (20, 7), (40, 1)])
def test_held_out_facts_never_stand_in_train(largest, seed):
    out = held_out_facts(largest, 1 / 3, seed)
    assert len(out) == round(largest * (largest + 1) / 2 / 3)
    trained = {fact for q in questions(number=4000, max_number=largest, held_out_seed=seed) for fact in used_facts(q)}
    assert not trained & out
    asked = questions("test", 2000, max_number=largest, held_out_seed=seed)
    for question in asked:
        kept = used_facts(question)
        assert kept <= out if question.subtask.endswith(HELD_OUT) else not kept & out
    assert {question.subtask for question in asked} == {f"{k}/{g}" for k, g in product(ALL, (SEEN, HELD_OUT))}


def test_every_seen_pair_of_numbers_is_trained_and_both_orders_are():
    shown = Counter(tuple(numbers(q.question)) for q in questions(number=4000, kinds=["addition"]))
    expected = divide("addition", 20, held_out_facts(20, 1 / 3, 0))[SEEN]
    assert {tuple(sorted(pair)) for pair in shown} == set(expected)
    assert {(b, a) for a, b in shown} == set(shown)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_constant_answer_earns_much(kind, split):
    for group in {q.subtask for q in questions(split, 20, kinds=[kind])}:
        answers = Counter(q.answer for q in questions(split, 2000, kinds=[kind]) if q.subtask == group)
        assert max(answers.values()) <= 3 * sum(answers.values()) / len(answers)


def test_each_pair_is_asked_once_before_any_comes_again():
    pool = divide("subtraction", 20, held_out_facts(20, 1 / 3, 0))[SEEN]
    shown = [numbers(q.question) for q in questions(number=2 * len(pool), kinds=["subtraction"])]
    assert sorted(shown[: len(pool)]) == sorted(pool) == sorted(shown[len(pool) :])
    assert shown[: len(pool)] != shown[len(pool) :]


def test_kinds_and_groups_are_asked_equally_often_and_in_every_wording():
    counts = Counter((q.subtask, i % 3) for i, q in enumerate(questions("test", 1800)))
    assert len(counts) == 18
    assert all(70 < number < 130 for number in counts.values())
    by_kind = Counter(q.subtask for q in questions("test", 600))
    assert set(by_kind.values()) == {100}


def test_the_test_split_ignores_subset_seeds_and_the_train_split_follows_them():
    assert questions("test", 40) == questions("test", 40, subset_seed=5)
    assert questions(number=40) != questions(number=40, subset_seed=5)
    rest = ArithmeticBank("train", ALL).part(100)
    assert [rest[i] for i in range(10)] == questions(number=110)[100:]


def test_key_steps_are_both_numbers_and_the_result():
    for question in questions(number=60):
        first, second, result = question.key_steps
        assert (first, second) == tuple((str(number),) for number in numbers(question.question))
        assert result[0] == question.solution
        assert result[-1] == question.answer


def test_without_held_out_facts_all_are_trained():
    test = make_bank("Arithmetic-v0", {"held_out_share": 0}, "test")
    assert {test[i].subtask for i in range(100)} == {"addition/seen-facts", "subtraction/seen-facts"}


def test_settings_that_leave_nothing_to_ask_are_refused():
    with pytest.raises(UserError, match=r"env_config\.kinds: .*'additon'"):
        check_env_config("Arithmetic-v0", {"kinds": ["additon"]})
    with pytest.raises(UserError, match=r"env_config\.kinds: name at least one"):
        check_env_config("Arithmetic-v0", {"kinds": []})
    with pytest.raises(UserError, match=r"env_config\.max_number: .*at least 5"):
        check_env_config("Arithmetic-v0", {"max_number": 3})
    with pytest.raises(UserError, match=r"held_out_share: 0\.02 .*no question of kind addition with held-out-facts"):
        make_bank("Arithmetic-v0", {"held_out_share": 0.02, "max_number": 5}, "test")
    with pytest.raises(UserError, match="splits train and test"):
        ArithmeticBank("validation")
