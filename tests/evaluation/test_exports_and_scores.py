"""Predictions written for VLMEvalKit and lmms-eval, and their result files read back, each in its published form."""

import csv
import json
import re

import pytest

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.evaluation.exchange import export_predictions, read_external_scores, thinking_and_answer
from sharegrpo_rl.evaluation.folder import add_scores, read_scores
from sharegrpo_rl.evaluation.report import GeneratedText

HEADER = "index\tquestion\tA\tB\tanswer\tcategory\n"
TEXT = '<think>It is\tred,\n I "see".</think><answer>A</answer>'


@pytest.fixture
def evaluated(tmp_path):
    path = tmp_path / "Mine.tsv"
    path.write_text(HEADER + "5\tWhich?\tred\tblue\tA\tcolors\n7\tWhich?\tNA\tblue\tB\tcolors\n")
    env = make_env("MultimodalQA-v0", {"data": str(path), "benchmark": "vlmevalkit"}, split="test")
    return evaluate(env, lambda shown: [GeneratedText(TEXT, 5)] * len(shown)).records, env.bank


def test_vlmevalkit_gets_its_columns_and_the_prediction(evaluated, tmp_path):
    (path,) = export_predictions(*evaluated, "vlmevalkit", folder=tmp_path / "out", model="tiny", name="Mine")
    assert path.name == "tiny_Mine.tsv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["index", "question", "A", "B", "answer", "category", "prediction", "thinking"]
    assert [row["index"] for row in rows] == ["5", "7"]
    assert rows[0]["prediction"] == "A"
    assert rows[0]["thinking"] == '<think>It is\tred,\n I "see".</think>'
    assert rows[1]["A"] == "NA"


def test_what_pandas_reads_is_what_was_written(evaluated, tmp_path):
    pandas = pytest.importorskip("pandas")
    (path,) = export_predictions(*evaluated, "vlmevalkit", folder=tmp_path / "out", model="tiny", name="Mine")
    table = pandas.read_csv(path, sep="\t")
    assert table["index"].tolist() == [5, 7]
    assert table["prediction"].tolist() == ["A", "A"]


def test_lmms_eval_gets_samples_and_a_log(evaluated, tmp_path):
    jsonl, log = export_predictions(*evaluated, "lmms-eval", folder=tmp_path / "out", model="tiny", name="mine_task")
    samples = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert jsonl.name == "tiny_samples_mine_task.jsonl"
    assert [s["doc_id"] for s in samples] == [0, 1]
    assert samples[1]["target"] == "B"
    assert samples[0]["resps"] == [["A"]]
    assert samples[0]["filtered_resps"] == ["A"]
    assert samples[0]["doc"]["index"] == "5"
    # What lmms-eval's model `from_log` looks up.
    content = json.loads(log.read_text())
    assert content["args"]["limit"] is None
    assert content["model_configs"]["task"] == "mine_task"
    assert {entry["doc_id"]: entry["resps"][0][0] for entry in content["logs"]} == {0: "A", 1: "A"}
    assert re.fullmatch(r"\d{4}_\d{4}", content["time"])
    _, log = export_predictions(evaluated[0][:1], evaluated[1], "lmms-eval", folder=tmp_path, model="m", name="t")
    assert json.loads(log.read_text())["args"]["limit"] == 1


def test_only_the_answer_goes_to_a_judge():
    assert thinking_and_answer("<think>a</think> so <answer>3</answer>.") == ("<think>a</think>", "3")
    assert thinking_and_answer("It is \\boxed{3}.") == ("", "It is \\boxed{3}.")
    assert thinking_and_answer("<think>never ends")[1] == ""


def test_a_file_without_index_cannot_go_to_vlmevalkit(tmp_path):
    row = {"question": "Which?", "ground_truth": 3}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    config = {"data": str(tmp_path / "test.jsonl"), "benchmark": "superclevr"}
    env = make_env("MultimodalQA-v0", config, split="test")
    records = evaluate(env, lambda shown: [GeneratedText(TEXT, 5)]).records
    with pytest.raises(UserError, match="own TSV"):
        export_predictions(records, env.bank, "vlmevalkit", folder=tmp_path, model="m", name="t")


# ---- result files

ACC = '"split","Overall","colors","shapes"\n"none","0.5","0.25","0.75"\n'
POPE = "split,Overall,acc,precision,recall\nOverall,85.2,86.0,90.1,80.8\nrandom,88.0,88.5,95.0,82.0\n"
VISTA = "Task&Skill,tot,prefetch,hit,prefetch_rate,acc\nOverall,10,5,4,50.0,40.0\ngeometry reasoning,4,1,1,25.0,25.0\n"
WEMATH = ",Score (Strict),IK (Strict)\n0,35.05%,41.90% (220)\n"
VERSE = "split,Overall,Subject\nOverall,41.2,x\n"
LMMS = {
    "results": {
        "pope": {"alias": "pope", "pope_accuracy,none": 0.86, "pope_f1_score,none": 0.85, "x_stderr,none": "N/A"}
    },
    "configs": {"pope": {"task": "pope"}},
    "versions": {"pope": 0},
}


def scores_of(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_external_scores(path)


def test_result_files_are_read_as_they_stand(tmp_path):
    acc = scores_of(tmp_path, "m_MMStar_acc.csv", ACC)
    assert (acc["tool"], acc["file"]) == ("VLMEvalKit", "m_MMStar_acc.csv")
    assert acc["scores"] == {"none": {"Overall": 0.5, "colors": 0.25, "shapes": 0.75}}
    assert scores_of(tmp_path, "a_score.csv", POPE)["scores"]["random"]["precision"] == 95.0
    assert scores_of(tmp_path, "b_score.csv", VISTA)["scores"]["geometry reasoning"]["acc"] == 25.0
    lmms = scores_of(tmp_path, "x_results.json", LMMS)
    assert (lmms["tool"], lmms["scores"]["pope"]["pope_f1_score"]) == ("lmms-eval", 0.85)
    assert scores_of(tmp_path, "c_score.json", {"Final Score": 7, "parts": {"a": 3}})["scores"] == {
        "Overall": {"Final Score": 7.0, "parts.a": 3.0}
    }


def test_percentages_as_text_are_figures_too(tmp_path):
    assert scores_of(tmp_path, "w_score.csv", WEMATH)["scores"] == {
        "Overall": {"Score (Strict)": "35.05%", "IK (Strict)": "41.90% (220)"}
    }


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "one line\n", "not a table"),
        ("a.csv", "a,b\nx,y\n", "holds no number"),
        ("a.json", "[1]", "not an object"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"a": "b"}', "holds no results"),
        ("a.xlsx", "x", "give VLMEvalKit's"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words):
        scores_of(tmp_path, name, content)
    with pytest.raises(UserError, match="cannot be read"):
        read_external_scores(tmp_path / "nothing.csv")


def test_scores_are_kept_once_for_each_file(tmp_path):
    one = scores_of(tmp_path, "a_acc.csv", ACC)
    add_scores(tmp_path, one)
    add_scores(tmp_path, {**one, "scores": {"none": {"Overall": 0.6}}})
    add_scores(tmp_path, scores_of(tmp_path, "b_score.csv", POPE))
    assert [kept["file"] for kept in read_scores(tmp_path)] == ["a_acc.csv", "b_score.csv"]
    assert read_scores(tmp_path)[0]["scores"]["none"]["Overall"] == 0.6
