"""The preview page: whole, self-contained, honest about prompts, safe against hostile texts."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.preview import PreviewSettings, write_preview

HOSTILE = '<script>alert("1")</script> & <img src=x onerror=y>'


def encode(text, pictures):
    """A stand-in for a processor: four placeholder tokens for each picture."""
    prompt = "<|user|>" + "<|image_pad|>" * 4 * len(pictures) + text
    return prompt, 4 * len(pictures) + len(text.split()), 4 * len(pictures)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(path):
    page = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return page, tags.seen


@pytest.fixture
def env():
    return make_env("DrawnShapes-v0", {"kinds": ["counting", "spatial"]})


def test_the_page_shows_questions_slots_and_prompts(env, tmp_path):
    settings = PreviewSettings("a run", num_variants=2, transform_probability=1.0)
    page, tags = read(write_preview(env, encode, settings, tmp_path / "new" / "page.html", num=4, num_groups=2))
    assert page.count("<section>") == 4
    assert page.count("<article>") == 4 * 2 * 2
    pictures = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(pictures) == 4 + 16
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert len(set(pictures)) > 10
    for index in range(4):
        assert env.bank[index].question in page
    assert "&lt;|image_pad|&gt; x 4" in page
    assert re.search(r"<b>\d+</b> tokens, <b>4</b> of them image", page)
    assert "the task does not list it" in page
    assert not re.search(r"https?://|<script|<link", page)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_the_same_settings_give_the_same_page(env, tmp_path):
    def page(seed, name):
        settings = PreviewSettings("a run", num_variants=2, transform_probability=0.5, seed=seed)
        return write_preview(env, encode, settings, tmp_path / name, num=2).read_text()

    assert page(0, "a.html") == page(0, "b.html")
    assert page(0, "a.html") != page(1, "b.html")


def write_rows(folder, **columns):
    Image.fromarray(np.zeros((600, 900, 3), np.uint8)).save(folder / "a.png")
    row = {
        "id": HOSTILE,
        "image": "a.png",
        "question": f"How many dots are left of {HOSTILE}?",
        "answer": "2",
        **columns,
    }
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return make_env("VisualCounting-v0", {"data": str(folder)})


def test_hostile_texts_stay_text(tmp_path):
    page, tags = read(write_preview(write_rows(tmp_path), encode, PreviewSettings(HOSTILE), tmp_path / "page.html"))
    assert not [tag for tag, _ in tags if tag == "script"]
    assert all(attrs.keys() <= {"class", "alt", "title", "src"} for tag, attrs in tags if tag == "img")
    assert "&#39;left&#39;" in page  # why turns and flips were dropped


def test_groups_that_shrink_and_prompts_that_do_not_fit_are_told(tmp_path):
    def refuse(text, pictures):
        raise UserError("a prompt has 2000 tokens, more than max_prompt_tokens = 1024")

    env = write_rows(tmp_path)
    settings = PreviewSettings("a run", num_variants=4, transforms=["flip_vertical"])
    page, _ = read(write_preview(env, refuse, settings, tmp_path / "page.html"))
    assert "3 slot(s) fewer" in page
    assert "max_prompt_tokens" in page
    assert "the run does not list it" in page


def test_what_cannot_be_done_is_said(env, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        write_preview(env, encode, PreviewSettings("a run"), tmp_path / "file" / "page.html", num=1)
    with pytest.raises(UserError, match="--num"):
        write_preview(env, encode, PreviewSettings("a run"), tmp_path / "page.html", num=0)
