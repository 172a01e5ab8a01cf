"""The report from finished run folders: its figures, its files, what it says where something is missing."""

import json
import re
from html.parser import HTMLParser
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from sharegrpo_rl.reports.analysis import analyse
from sharegrpo_rl.reports.comparison_page import findings, stop_notes, verdict, write_report
from sharegrpo_rl.reports.examples import disagreements, sample_answers
from sharegrpo_rl.reports.methods import Method, make_labels, read_methods, write_methods
from sharegrpo_rl.reports.options import Settings


class Page(HTMLParser):
    """Tags with their attributes, and all visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def two_methods(maker, **changes):
    for seed, (low, high) in enumerate([(0.5, 0.8), (0.55, 0.75), (0.45, 0.85)]):
        maker.run("GRPO", seed, low, **changes)
        maker.run("ShareGRPO", seed, high, **changes)
    return maker.folder / "runs"


def test_the_report_is_three_files_and_pictures_and_needs_no_network(maker, tmp_path):
    out = tmp_path / "out"
    evil = "<script>alert('x')</script>|`*{}</answer>"
    report = write_report(read_methods(two_methods(maker, text=evil)), Settings(), out)
    page = Page((out / "report.html").read_text())
    assert [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")] == []
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://", (out / "report.html").read_text())
    assert "<script>alert('x')</script>" in page.words  # shown as text
    assert "Share-GRPO is ahead of GRPO by 30.0 points" in page.words
    for picture in report["pictures"]:
        with Image.open(out / picture["name"]) as image:
            assert min(image.size) > 100
    names = {picture["name"] for picture in report["pictures"]}
    assert {"final.png", "differences.png", "accuracy_by_completions.png", "accuracy_by_seconds.png"} <= names
    assert {"reward_format.png", "entropy.png", "length.png", "zero_gradient.png", "reward_density.png"} <= names
    assert "kl.png" not in names  # 0 everywhere
    text = (out / "report.md").read_text()
    assert "    <script>" in text  # an indented block: text, not markup
    assert all(f"]({name})" in text for name in names)
    assert json.loads((out / "report.json").read_text())["partial"] is False


def test_figures_are_those_of_scipy(maker):
    found = analyse(read_methods(two_methods(maker)), Settings())
    a, b = [0.5, 0.55, 0.45], [0.8, 0.75, 0.85]
    (pair,) = found["comparisons"]
    assert (pair["a"], pair["b"], pair["paired_by_seed"], pair["seeds"]) == ("GRPO", "Share-GRPO", True, [3, 3])
    expected = stats.ttest_rel(a, b)
    assert pair["difference"]["value"] == pytest.approx(-0.3, abs=1e-9)
    assert pair["difference"]["p_value"] == pytest.approx(expected.pvalue, abs=1e-9)
    assert pair["p_corrected"] == pair["difference"]["p_value"]
    assert pair["probability_of_improvement"]["value"] == 0.0
    grpo = found["methods"][0]
    low, high = stats.t.interval(0.95, 2, np.mean(a), stats.sem(a))
    assert (grpo["final"]["seeds"]["low"], grpo["final"]["seeds"]["high"]) == pytest.approx((low, high), abs=1e-9)
    assert grpo["final"]["other_questions"]["low"] <= low
    assert found["test_set"]["images"] == 20
    assert sum(pair["right_only"]) > 0
    assert grpo["cost"]["completions"] == 48


def test_wall_time_is_read_where_the_fastest_run_ended(maker):
    """Seed 0 takes 8 seconds, seed 1 takes 12: its curve from .31 to .55 is read two thirds along."""
    maker.run("GRPO", 0, 0.5)
    maker.run("GRPO", 1, 0.55)
    wall = analyse(read_methods(maker.folder / "runs"), Settings(confidence=0.8))["wall_time"]
    assert wall["seconds"] == 8.0
    assert wall["accuracy"]["GRPO"]["value"] == pytest.approx((0.5 + 0.31 + 2 / 3 * 0.24) / 2, abs=1e-9)


def test_questions_without_a_gradient_are_counted_by_kind(maker):
    kinds = analyse(read_methods(two_methods(maker)), Settings())["zero_gradient"]["GRPO"]
    color = next(entry for entry in kinds if entry["kind"] == "color")
    assert (color["groups"], color["all_wrong"], color["all_right"]) == pytest.approx((36, 1 / 3, 1 / 3))
    counting = next(entry for entry in kinds if entry["kind"] == "counting")
    assert (counting["all_wrong"], counting["all_right"]) == (0.0, 1.0)


def test_other_starts_are_not_paired(maker):
    for seed in range(3):
        maker.run("GRPO", seed, 0.5 + 0.02 * seed)
        maker.run("ShareGRPO", seed, 0.7 + 0.03 * seed**2 / 4, before=0.5)
    (pair,) = analyse(read_methods(maker.folder / "runs"), Settings())["comparisons"]
    assert pair["paired_by_seed"] is False
    assert pair["difference"]["degrees"] > 2


def test_examples_follow_their_rules(maker):
    methods = read_methods(two_methods(maker))
    found = analyse(methods, Settings())
    (pair,) = disagreements(methods, found["comparisons"])
    for winner, side in ((pair.a, pair.only_a), (pair.b, pair.only_b)):
        for example in side:
            assert [answer.right for answer in example.answers].count(True) == 1
            assert next(answer.label for answer in example.answers if answer.right) == winner
    grids = {m.label: np.array([[r["correct"] for r in run.predictions] for run in m.finished]) for m in methods}
    gaps = grids["Share-GRPO"].mean(0) - grids["GRPO"].mean(0)
    best = int(np.argmax(gaps))  # the first of the largest
    assert pair.only_b[0].question_id == methods[0].runs[0].predictions[best]["question_id"]
    kinds = [example.kind for example in sample_answers(methods)]
    assert len(kinds) == len(set(kinds)) > 1


def test_runs_without_predictions_are_reported_and_said_so(maker, tmp_path):
    report = write_report(read_methods(two_methods(maker, predictions=False)), Settings(), tmp_path / "out")
    assert report["comparisons"][0]["these_models"] is None
    assert report["comparisons"][0]["difference"]["p_value"] is not None
    assert any("predictions.jsonl" in note for note in report["notes"])


def test_an_unfinished_run_of_a_planned_method_makes_the_report_partial(maker, tmp_path):
    runs = two_methods(maker)
    maker.run("GRPO", 3, finished=False)
    entries = [
        {"label": label, "control_of": None, "runs": {str(s): f"{name}-{s}" for s in range(5)}}
        for label, name in (("plain", "grpo"), ("sharing", "sharegrpo"))
    ]
    (runs / "methods.json").write_text(json.dumps({"methods": entries}))
    report = write_report(read_methods(runs), Settings(), tmp_path / "out")
    assert report["partial"] is True
    assert report["partial_notes"] == [
        "plain lacks seed 3 (2 of 4 iterations), seed 4 (not begun)",
        "sharing lacks seed 3 (not begun), seed 4 (not begun)",
    ]
    assert "Partial results." in (tmp_path / "out" / "report.html").read_text()
    assert "**Partial results.**" in (tmp_path / "out" / "report.md").read_text()


def test_labels_tell_settings_apart(maker):
    maker.run("GRPO", 0, name="a")
    maker.run("GRPO", 0, name="b", sets=("config.selection=dynamic_sampling",))
    maker.run("GRPO", 0, name="c", sets=("config.shuffle_rewards=true",))
    labels = sorted(m.label for m in read_methods(maker.folder / "runs"))
    assert labels == ["GRPO (selection=dynamic_sampling)", "GRPO (selection=none)", "GRPO, permuted rewards"]
    same = {"run": "GRPOD", "env": "x", "stop": {}, "config": {}}
    assert make_labels([same, same]) == ["GRPO-D 1", "GRPO-D 2"]


def test_a_name_stands_before_the_methods_of_a_folder(maker):
    runs = two_methods(maker)
    assert sorted(m.label for m in read_methods(runs, "mine")) == ["mine, GRPO", "mine, Share-GRPO"]
    write_methods(maker.folder, [Method("A", seeds=[0]), Method("B", seeds=[0], control_of="A")], {
        ("A", 0): runs / "grpo-0",
        ("B", 0): runs / "sharegrpo-0",
    })  # fmt: skip
    first, second = read_methods(maker.folder, "mine")
    assert (first.label, second.label, second.control_of) == ("mine, A", "mine, B", "mine, A")
    for seed in range(3):
        rmtree(runs / f"sharegrpo-{seed}")
    assert [m.label for m in read_methods(runs, "mine")] == ["mine"]


def test_unequal_completions_are_said(maker):
    maker.run("GRPO", 0)
    path = maker.run("ShareGRPO", 0)
    rows = (path / "result.json").read_text().splitlines()
    (path / "result.json").write_text("\n".join(rows[:2]) + "\n")
    notes = stop_notes(analyse(read_methods(maker.folder / "runs"), Settings()))
    assert notes[0] == "GRPO stopped after 48 completions in 4 iterations."
    assert notes[-1] == "Completions are not equal: the largest mean is 2.00 times the smallest."


def said(maker, **accuracies):
    """The three sentences on methods with these accuracies of seeds 0, 1, ..."""
    for name, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            maker.run(name, seed, accuracy)
    return verdict(analyse(read_methods(maker.folder / "runs"), Settings()))


def test_the_verdict_on_two_methods_says_how_far_it_holds(maker):
    runs = two_methods(maker)
    analysis = analyse(read_methods(runs), Settings())
    first, budget, cost = verdict(analysis)
    assert [first] == findings(analysis)
    assert first.startswith(
        "Share-GRPO is ahead of GRPO by 30.0 points in greedy accuracy after training (95 % interval +"
    )
    assert "paired t test over 3 seeds, p = 0.0" in first
    assert budget == (
        "Both methods ran with seeds 0, 1, 2, 48 completions and 4 iterations a run, and answered 40 test questions "
        "with 20 images of DrawnShapes-v0."
    )
    (pair,) = analysis["comparisons"]
    low, high = (-100 * pair["other_questions"][end] for end in ("high", "low"))
    expected = f"with {low:.1f} to {high:.1f} points" if low > 0 else "the order could be the other way round"
    assert cost.startswith("A run took 12 seconds of training; on other questions")
    assert expected in cost
    analysis["comparisons"][0]["other_questions"] |= {"low": -0.6, "high": 0.1}
    assert "the order could be the other way round" in verdict(analysis)[2]


def test_the_verdict_on_several_methods_names_whom_the_highest_is_ahead_of(maker):
    first, budget, _ = said(
        maker, GRPO=[0.5, 0.525, 0.475, 0.5], ShareGRPO=[0.8, 0.775, 0.85, 0.8], StepGRPO=[0.2, 0.25, 0.225, 0.175]
    )
    assert first.startswith(
        "Share-GRPO, the highest of 3 methods, is ahead of the next, GRPO, by 30.6 points in greedy"
    )
    assert first.endswith("after correction), and ahead of StepGRPO too.")
    assert budget.startswith("All 3 methods ran with seeds 0 to 3,")


def test_the_verdict_says_where_nothing_is_shown(maker):
    first, _, cost = said(
        maker, GRPO=[0.6, 0.7, 0.8, 0.75], ShareGRPO=[0.75, 0.65, 0.85, 0.8], StepGRPO=[0.2, 0.225, 0.3, 0.275]
    )
    assert first.startswith(
        "Share-GRPO, the highest of 3 methods, is shown to be ahead of StepGRPO but not of the next, GRPO: +5.0 points in"
    )
    half = stats.t.ppf(0.975, 3) * stats.sem([0.15, -0.05, 0.05, 0.05])
    assert f"about {int(np.ceil(4 * (half / 0.05) ** 2))} seeds would show a difference of this size" in cost


def test_the_verdict_does_without_a_pair_or_without_intervals(maker):
    first, budget, cost = said(maker, GRPO=[0.5, 0.6, 0.7])
    assert first == (
        "GRPO reaches 60.0 (35.2 to 84.8) % in greedy accuracy after training; no other method is there to compare."
    )
    assert budget.startswith("The method ran with seeds 0, 1, 2,")
    assert cost == "A run took 12 seconds of training."
    first, budget, cost = said(maker, ShareGRPO=[0.75, 0.85], StepGRPO=[0.75, 0.65])
    assert first.startswith("Share-GRPO is the highest of 3 methods; Share-GRPO and StepGRPO: 10.0 points apart")
    assert budget.startswith("All 3 methods ran with 2 to 3 seeds,")
    assert cost == "A run took 10 (Share-GRPO) to 12 seconds of training (GRPO); more seeds could give a verdict."


def test_a_difference_that_only_the_correction_hides_is_named_as_such(maker):
    runs = two_methods(maker)
    analysis = analyse(read_methods(runs), Settings())
    analysis["comparisons"][0]["p_corrected"] = 0.2
    assert "without the correction for the number of pairs (1) it would count as shown" in verdict(analysis)[2]
    analysis["comparisons"][0]["difference"] |= {"value": 0.001, "low": -0.3, "high": 0.302}
    assert "so small a difference would take more than 100 seeds to show" in verdict(analysis)[2]


def test_a_control_is_what_a_single_method_is_compared_with(maker):
    runs = two_methods(maker)
    first, second = read_methods(runs)
    first.control_of = second.label
    assert verdict(analyse([first, second], Settings()))[0].startswith("Share-GRPO is ahead of GRPO by 30.0 points")
