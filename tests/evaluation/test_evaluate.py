"""Evaluation with scripted answers: an oracle, one that answers from the picture, a constant one."""

import json

import numpy as np
import pytest

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.envs.tasks.drawn_shapes import KINDS
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.evaluation.report import GeneratedText, make_report

LIMIT = 300


@pytest.fixture(scope="module")
def env():
    return make_env("DrawnShapes-v0", {}, split="test")


def reply(answer):
    return GeneratedText(f"<think>I look.</think><answer>{answer}</answer>", 9)


@pytest.fixture(scope="module")
def seeing(env):
    """Answers rightly whatever picture it is shown: it knows each picture of the split by heart."""
    known = {}
    for index in range(len(env.bank)):
        question = env.bank[index]
        known[np.asarray(question.images[0].open()).tobytes(), question.subtask] = question.answer

    def generate(shown):
        return [reply(known[images[0].tobytes(), kind_of(text)]) for text, images in shown]

    return generate


def kind_of(text):
    return next(kind for kind, spec in KINDS.items() if text in spec.wordings)


def test_who_sees_is_right_and_blind_is_near_chance(env, seeing):
    report = evaluate(env, seeing, limit=LIMIT, batch=64)
    assert (report.accuracy, report.format_rate, report.truncated_rate) == (1.0, 1.0, 0.0)
    assert (report.questions, report.mean_length, report.extractor) == (LIMIT, 9.0, "think_answer")
    assert report.confidence_interval[0] > 0.98
    assert [r.question for r in report.records] == [
        env.bank[i].wordings[i % len(env.bank[i].wordings)] for i in range(LIMIT)
    ]
    assert [r.image_keys for r in report.records] == [(env.bank[i].images[0].fingerprint(),) for i in range(LIMIT)]
    blind = evaluate(env, seeing, limit=LIMIT, blind=True)
    chance = (1 / 6 + 1 / 6 + 1 / 3) / 3
    assert abs(blind.accuracy - chance) < 0.08
    assert blind.blind
    assert not report.blind


def test_a_constant_answer_earns_its_share_of_its_kind(env):
    report = evaluate(env, lambda shown: [reply("red")] * len(shown), limit=LIMIT)
    assert report.by_kind["color"]["accuracy"] == pytest.approx(1 / 6, abs=0.03)
    assert report.by_kind["counting"]["accuracy"] == report.by_kind["form"]["accuracy"] == 0
    assert {kind: cell["questions"] for kind, cell in report.by_kind.items()} == dict.fromkeys(
        report.by_kind, LIMIT // 3
    )


def test_questions_wordings_and_pictures_are_fixed(env):
    runs = []
    for batch in (7, 300):
        shown_all = []

        def generate(shown, seen=shown_all):
            seen += shown
            return [reply("red")] * len(shown)

        records = evaluate(env, generate, limit=50, batch=batch).records
        runs.append((shown_all, records))
    assert runs[0][1] == runs[1][1]
    for index, (text, images) in enumerate(runs[0][0]):
        question = env.bank[index]
        assert text == question.wordings[index % 3]
        assert np.array_equal(images[0], np.asarray(question.images[0].open()))
    first = evaluate(env, lambda shown: [reply("red")] * len(shown), limit=20).records
    assert first == runs[0][1][:20]


def test_records_tell_what_happened(env):
    def generate(shown):
        return [GeneratedText("no tags", 30, truncated=True)] * len(shown)

    report = evaluate(env, generate, limit=6)
    assert (report.accuracy, report.format_rate, report.truncated_rate, report.grader_errors) == (0, 0, 1, 0)
    rows = json.loads(json.dumps(report.rows()))
    assert [row["question_id"] for row in rows] == [env.bank[i].id for i in range(6)]
    assert [row["gold"] for row in rows] == [env.bank[i].answer for i in range(6)]
    assert rows[0].keys() >= {"wording", "extracted", "correct", "format_ok", "truncated", "num_tokens", "text"}
    summary = json.loads(json.dumps(report.summary()))
    assert summary["confidence_interval"][0] == 0.0
    assert "records" not in summary
    assert sum(cell["questions"] for cell in report.by_wording.values()) == 6


def test_the_split_may_be_shorter_than_the_limit(make_short):
    assert evaluate(make_short(4), lambda shown: [reply("1")] * len(shown), limit=500).questions == 4


@pytest.fixture
def make_short(tmp_path):
    def make(number):
        rows = [{"id": f"t{i}", "question": f"What is {i} + 0?", "answer": str(i)} for i in range(number)]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return make_env("MathQA-v0", {"data": str(tmp_path)}, split="test")

    return make


def test_text_only_questions_have_nothing_to_swap(make_short):
    env = make_short(4)
    blind = evaluate(env, lambda shown: [reply(text.split()[2]) for text, _ in shown], blind=True)
    assert blind.accuracy == 1.0


def test_no_question_is_an_error(env):
    with pytest.raises(UserError, match="limit"):
        evaluate(env, lambda shown: [], limit=0)
    with pytest.raises(ValueError, match="at least one"):
        make_report([], "think_answer", blind=False)


def test_a_generator_that_loses_questions_is_our_bug(env):
    with pytest.raises(RuntimeError, match="completions"):
        evaluate(env, lambda shown: [reply("1")], limit=5)
