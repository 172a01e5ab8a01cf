"""What a model, a data set or a file wrote stays text on every page; tables, images and numbers of all pages."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
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
