"""Sampled evaluation with scripted answers: seeds, votes, extractors, accepted answers, and going on after a stop."""

import json

import pytest

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.evaluation.folder import (
    EvaluationFolder,
    data_digest,
    differences,
    grader_version,
    read_predictions,
    read_protocol,
    read_result,
)
from sharegrpo_rl.evaluation.report import GeneratedText, record_of
from sharegrpo_rl.evaluation.verdict import vote

ROWS = [{"id": f"t{i}", "question": f"What is {i} + 1?", "answer": str(i + 1), "subtask": "sums"} for i in range(10)]


@pytest.fixture
def env(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return make_env("MathQA-v0", {"data": str(folder)}, split="test")


def reply(answer):
    return GeneratedText(f"<think>I add.</think><answer>{answer}</answer>", 7)


def number_in(text):
    return int(text.split()[2])


def greedy(shown):
    return [reply(number_in(text) + 1) for text, _ in shown]


def sample(shown, seeds):
    """Right, right, wrong, wrong in another way; for even numbers the other way round."""
    answers = []
    for text, _ in shown:
        i = number_in(text)
        four = [i + 1, i + 1, i + 2, i + 3]
        answers.append([reply(a) for a in (four if i % 2 else four[::-1])])
    return answers


def test_samples_are_graded_and_counted(env):
    seen = []

    def noting(shown, seeds):
        seen.extend(seeds)
        return sample(shown, seeds)

    report = evaluate(env, greedy, sample=noting, batch=3, seed=5)
    assert report.accuracy == 1.0
    figures = report.sampling
    assert figures["samples"] == 4
    assert {k: cell["value"] for k, cell in figures["mean@k"].items()} == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert figures["pass@k"]["1"]["value"] == 0.5
    assert figures["pass@k"]["4"]["value"] == 1.0
    assert figures["majority@k"]["4"]["value"] == 1.0
    assert figures["mean_length"] == 7
    assert len(set(seen)) == 10
    again = []
    evaluate(env, greedy, sample=lambda shown, seeds: again.extend(seeds) or sample(shown, seeds), batch=7, seed=5)
    assert again == seen


def test_rows_hold_samples_only_where_there_are_some(env):
    with_samples = evaluate(env, greedy, sample=sample, limit=2).rows()
    assert [s["vote"] for s in with_samples[1]["samples"]] == ["2", "2", "3", "4"]
    plain = evaluate(env, greedy, limit=2)
    assert not {"samples", "categories", "labels"} & plain.rows()[0].keys()
    assert "sampling" not in plain.summary()
    assert [record_of(json.loads(json.dumps(row))) for row in plain.rows()] == list(plain.records)


@pytest.mark.parametrize(("extract", "accuracy"), [("format", 0.0), ("auto", 1.0), ("boxed", 1.0), ("answer", 0.0)])
def test_the_extractor_decides_where_the_answer_is_looked_for(env, extract, accuracy):
    def boxed(shown):
        return [GeneratedText(f"I add. \\boxed{{{number_in(text) + 1}}}", 5) for text, _ in shown]

    report = evaluate(env, boxed, extract=extract)
    assert (report.accuracy, report.format_rate) == (accuracy, 0.0)
    assert report.extractor == ("think_answer" if extract == "format" else extract)


def test_every_accepted_answer_is_right(tmp_path):
    path = tmp_path / "Mine.tsv"
    path.write_text("index\tquestion\tanswer\n0\tWhich share?\t\"['one half', '0.5']\"\n")
    env = make_env("MultimodalQA-v0", {"data": str(path), "benchmark": "vlmevalkit"}, split="test")
    for answer, accuracy in (("one half", 1.0), ("0.5", 1.0), ("0.6", 0.0)):
        assert evaluate(env, lambda shown, a=answer: [reply(a)] * len(shown)).accuracy == accuracy


def test_votes_of_choices_go_to_the_option(tmp_path):
    row = {"id": "a", "question": "Which?", "choices": ["red", "green"], "answer": "A"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    (question,) = [make_env("MathQA-v0", {"data": str(tmp_path)}, split="test").bank[0]]
    assert vote(question, "(B)") == vote(question, "green") == "option 1"
    assert vote(question, "blue") == "blue"
    assert vote(question, None) is None


# ---- folders


def protocol_of(env, **changes):
    return {"batch": 4, "data_digest": data_digest(env.bank, 10), "extractor": "think_answer", **changes}


class Stopped(Exception):
    """A kill in the middle."""


@pytest.mark.parametrize("answered", [0, 4, 5, 8, 10])
def test_a_stopped_evaluation_goes_on_to_the_same_file(env, tmp_path, answered):
    whole = tmp_path / "whole"
    journal = EvaluationFolder(whole, protocol_of(env))
    journal.finish(evaluate(env, greedy, sample=sample, batch=4, folder=journal).summary())
    calls = []

    def stopping(shown):
        if len(calls) + len(shown) > answered:
            raise Stopped
        calls.extend(shown)
        return greedy(shown)

    part = tmp_path / "part"
    if answered < 10:
        with pytest.raises(Stopped):
            evaluate(env, stopping, sample=sample, batch=4, folder=EvaluationFolder(part, protocol_of(env)))
        with (part / "predictions.jsonl").open("a") as file:
            file.write('{"question_id": "t')  # what a kill may leave
    later = []
    journal = EvaluationFolder(part, protocol_of(env))
    counting = lambda shown: later.extend(shown) or greedy(shown)  # noqa: E731
    journal.finish(evaluate(env, counting, sample=sample, batch=4, folder=journal).summary())
    assert len(later) == 10 - (answered // 4 * 4 if answered < 10 else 0)
    for name in ("predictions.jsonl", "result.json", "protocol.json"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    assert len(read_predictions(part)) == 10


def test_a_finished_folder_asks_nothing_again(env, tmp_path):
    journal = EvaluationFolder(tmp_path / "a", protocol_of(env))
    journal.finish(evaluate(env, greedy, batch=4, folder=journal).summary())
    again = EvaluationFolder(tmp_path / "a", protocol_of(env))
    assert evaluate(env, lambda shown: pytest.fail("asked again"), batch=4, folder=again).accuracy == 1.0
    assert read_result(tmp_path / "a")["questions"] == 10


def test_other_protocols_and_other_files_are_refused(env, tmp_path):
    EvaluationFolder(tmp_path / "a", protocol_of(env))
    with pytest.raises(UserError, match=r"another protocol \(extractor was 'think_answer', is 'auto'\)"):
        EvaluationFolder(tmp_path / "a", protocol_of(env, extractor="auto"))
    with pytest.raises(UserError, match="not finished"):
        read_result(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        EvaluationFolder(tmp_path / "b", protocol_of(env))
    with pytest.raises(UserError, match="cannot be written"):
        EvaluationFolder(tmp_path / "b/notes.txt/c", protocol_of(env))
    (tmp_path / "a/predictions.jsonl").write_text('{"question_id": "x"}\n')
    with pytest.raises(UserError, match="line 1: not a prediction"):
        read_predictions(tmp_path / "a")
    (tmp_path / "a/protocol.json").write_text("{")
    with pytest.raises(UserError, match=r"protocol\.json: cannot be read"):
        read_protocol(tmp_path / "a")


def test_digests_and_differences(env):
    assert data_digest(env.bank, 10) != data_digest(env.bank, 9)
    assert grader_version() == grader_version()
    assert grader_version().startswith("rule-based, sharegrpo_rl ")
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == {"a.c": (2, 4), "d": (3, None)}
