"""What a model, a data set or a file wrote stays text on every page; tables, images and numbers of all pages."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from jinja2 import UndefinedError
from PIL import Image
from run_maker import RunMaker

from sharegrpo_rl.envs.registry import make_env, train_env_config
from sharegrpo_rl.reports.comparison_page import write_report
from sharegrpo_rl.reports.methods import read_methods
from sharegrpo_rl.reports.options import Settings
from sharegrpo_rl.reports.pages import make_table, picture, render
from sharegrpo_rl.reports.preview import PreviewSettings, write_preview
from sharegrpo_rl.reports.reproduce import PaperTable, PlannedRow, Row, result_text
from sharegrpo_rl.reports.run_report import report_run
from sharegrpo_rl.reports.watch import search_page
from sharegrpo_rl.runs.run_file import load_run

NASTY = """<script>taken()</script> & "double" 'single' <img src=x onerror=taken()> &lt;b&gt; `code` *bold* [a](b) |"""


class Page(HTMLParser):
    """Tags with attributes, visible words, and what stands in scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def assert_harmless(text: str, scripts: int = 0) -> Page:
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == scripts
    assert not [a for _, a in page.tags if a.keys() & {"onerror", "onload", "href"}]
    assert all((a["src"] or "").startswith("data:image/") for tag, a in page.tags if tag == "img")
    return page


def test_a_run_page_takes_settings_names_and_alarms_for_text(maker: RunMaker) -> None:
    path = maker.run("GRPO", sets=(f"config.system_prompt={json.dumps(NASTY)}",))
    text = report_run(path)[0].read_text()
    assert NASTY in assert_harmless(text).words


def test_a_comparison_takes_answers_and_labels_for_text_in_html_and_markdown(maker: RunMaker, tmp_path: Path) -> None:
    for seed in range(3):
        maker.run("GRPO", seed, 0.5 + 0.1 * seed, text=NASTY)
        maker.run("ShareGRPO", seed, 0.8, text=NASTY)
    methods = read_methods(maker.folder / "runs")
    methods[0].label = NASTY
    write_report(methods, Settings(), tmp_path / "out", command=NASTY)
    page = assert_harmless((tmp_path / "out" / "report.html").read_text())
    assert page.words.count(NASTY) > 10
    assert f"{NASTY} minus Share-GRPO" in page.words
    text = (tmp_path / "out" / "report.md").read_text()
    outside = [line for line in text.splitlines() if not line.startswith("    ")]
    fence = outside.index("```bash")
    assert outside[fence + 1] == NASTY
    prose = "\n".join(outside[:fence])
    assert not re.search(r"(?<!\\)[<`*]script|(?<!\\)<|(?<!\\)&|(?<!\\)\*bold", prose)
    heads = [line for line in prose.splitlines() if line.startswith("| pair |")]
    rows = [line for line in prose.splitlines() if line.startswith("| \\<script>") and "minus" in line]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in (heads[0], rows[0])}
    assert len(cells) == 1  # the name's own | begins no column


def test_a_preview_takes_questions_prompts_and_titles_for_text(tmp_path: Path) -> None:
    env = make_env("DrawnShapes-v0", {})
    out = write_preview(
        env, lambda text, images: (NASTY + text, 3, 0), PreviewSettings(NASTY), tmp_path / "p.html", num=1
    )
    page = assert_harmless(out.read_text())
    assert page.words.count(NASTY) >= 4  # title, heading, prompts


def test_a_reproduced_table_takes_names_and_log_lines_for_text() -> None:
    table = PaperTable("papers/a/b", "A paper", NASTY, ("Bench",), "a judge", (Row("one | two", (1.0,)),))
    text = result_text(table, [PlannedRow(1, table.rows[0])], {"one | two": {}}, False, {"job": NASTY})
    assert "| one \\| two |" in text
    assert text.count("\\<script>") == 2
    assert not re.search(r"(?<!\\)[<&`*\[]", text)


def test_a_template_that_is_not_given_a_name_fails() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("preview.html", facts={}, questions=[])


def test_all_pages_share_one_style_and_load_nothing() -> None:
    text = render("preview.html", title="t", facts={}, questions=[])
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_table_has_a_cell_for_each_column() -> None:
    table = make_table("T", {"name": str, "twice": lambda n: str(2 * n)}, [1, 2])
    assert (table.header, table.rows) == (("name", "twice"), (("1", "2"), ("2", "4")))


@pytest.mark.parametrize(("side", "shown"), [(28, 112), (100, 200), (112, 112), (300, 300), (900, 320)])
def test_pictures_are_shown_at_a_readable_size(side: int, shown: int) -> None:
    source = picture(np.zeros((side // 2, side, 3), np.uint8))
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (shown, shown // 2)


@pytest.mark.parametrize(
    "warm_start", ["null", "{rows: 64, steps: 5}", "{rows: 64, steps: 0}", "{rows: 64, data: drawn}"]
)
def test_a_report_sees_the_questions_that_training_saw(maker: RunMaker, warm_start: str) -> None:
    """The same as the algorithm's own config."""
    from sharegrpo_rl.algorithms.registry import build_config

    spec = load_run(maker.file(), [f"config.warm_start={warm_start}", "config.env_config.skip_questions=3"])
    assert train_env_config(spec.config) == build_config(spec.run, spec.env, spec.config, 0).train_env_config()


def wide_comparison(maker: RunMaker) -> Path:
    """Six methods with long names, in all pairs, and many kinds of questions."""
    for name in ("GRPO", "ShareGRPO", "GRPOD", "StepGRPO"):
        for seed in range(3):
            maker.run(name, seed, 0.5 + 0.05 * seed)
    for name in ("GRPO", "ShareGRPO"):
        for seed in range(3):
            sets = ("config.selection=dynamic_sampling", "config.temperature=0.9")
            path = maker.run(name, seed, 0.6 + 0.05 * seed, sets=sets, name=f"{name}-other-{seed}")
            summary = json.loads((path / "summary.json").read_text())
            entry = {"questions": 10, "before": 0.3, "after": 0.6, "blind": 0.1}
            summary["accuracy_by_kind"] |= {f"a rather long kind of question {i}": entry for i in range(12)}
            (path / "summary.json").write_text(json.dumps(summary))
    write_report(
        read_methods(maker.folder / "runs"), Settings(), maker.folder / "out", command="sharegrpo-rl " + "x" * 300
    )
    return maker.folder / "out" / "report.html"


def wide_search(folder: Path) -> Path:
    """A search over eight keys."""
    keys = {f"env_config.some_rather_long_option_{i}": 1.2345678e-5 * i for i in range(8)}
    trial = {"config": keys, "status": "finished", "metric": 0.61234, "iterations": 1200, "failures": 2}
    trials = [{"name": f"{i:04d}", "error": "RuntimeError: " + "y" * 300, **trial} for i in range(12)]
    results = {
        "run": "ShareGRPO",
        "env": "DrawnShapes-v0",
        "seed": 0,
        "ended": "budget",
        "seconds": 9000.0,
        "metric": "evaluation/accuracy_by_kind/counting",
        "mode": "max",
        "best": trials[0],
        "trials": trials,
        "space": {key: {"choice": [1, 2]} for key in keys},
        "iterations_of_a_trial": 1200,
        "completions": 1_200_000,
        "planned_trials": 12,
        "tune": {"scheduler": "asha", "searcher": "random"},
    }
    page = folder / "search.html"
    page.write_text(search_page(results, {}, ""))
    return page


def test_nothing_is_cut_off_at_1280_pixels(maker: RunMaker, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as tab:
        run = maker.run("GRPO", name="one", sets=(f"config.system_prompt={'z' * 400}",))
        rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        rows[0] |= {"error": "unexpected: " + "e" * 200, "text": "t" * 400}
        (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pages = [report_run(run)[0], wide_search(tmp_path)]
        env = make_env("DrawnShapes-v0", {})
        asked = PreviewSettings("A title", num_variants=4)
        pages.append(
            write_preview(env, lambda text, images: ("w" * 500 + text, 3, 0), asked, tmp_path / "p.html", num=2)
        )
        pages[0].rename(tmp_path / "run.html")
        pages[0] = tmp_path / "run.html"
        shutil.rmtree(run)
        pages.append(wide_comparison(maker))
        for page in pages:
            tab.open(page.as_uri())
            assert tab.value("document.querySelectorAll('section').length") > 1
            assert tab.cut_off() == [], page
        tab.open(
            pages[-1].as_uri(), width=500
        )  # where it is too narrow, a table scrolls in its own frame, with a shadow
        assert all(found.startswith("a table of") for found in tab.cut_off())
        assert "gradient" in tab.value("getComputedStyle(document.querySelector('.scroll')).backgroundImage")
        tab.open((pages[0]).as_uri())
        tab.value("document.querySelector('main').insertAdjacentHTML('beforeend', '<div class=wide><img></div>')")
        tab.value("document.querySelector('.wide').setAttribute('style', 'width: 1500px')")
        assert tab.cut_off()[0].startswith("DIV wide: ")


def test_a_comparison_begins_with_one_picture_and_three_sentences(maker: RunMaker, tmp_path: Path) -> None:
    for seed in range(3):
        maker.run("GRPO", seed, 0.5 + 0.05 * seed)
        maker.run("ShareGRPO", seed, 0.75 + 0.1 * (seed == 1))
        maker.run("StepGRPO", seed, 0.5 + 0.1 * (seed == 1))
    report = write_report(read_methods(maker.folder / "runs"), Settings(), tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    header = text[text.index("<header>") : text.index("</header>")]
    assert header.count("<img") == 1
    assert [unescape(p) for p in re.findall(r"<p>(.*?)</p>", header)] == report["verdict"]
    assert len(report["verdict"]) == 3
    markdown = (tmp_path / "out" / "report.md").read_text()
    top = markdown[: markdown.index("\n## ")]
    assert top.count("![") == 1
    assert top.count(".\n") == 4  # the caption and three sentences
    for finding in report["findings"]:  # nothing is lost
        assert finding in unescape(text)
        assert finding in markdown
    for line in report["stopped"]:
        assert line in unescape(text)
        assert line in markdown
