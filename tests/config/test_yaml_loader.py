"""The strict YAML reader: YAML 1.2 scalars, and one clear line for everything it refuses."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.config.tree import MAX_BYTES, load_yaml, load_yaml_file
from sharegrpo_rl.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2E+3", 2000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("12", 12),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-21", "2026-11-21"),
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("-.inf", -math.inf),
        ("/data/set-1", "/data/set-1"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = load_yaml(text, "x.yaml")
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(load_yaml(".nan", "x.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a'", "twice"]),
        ("x:\n  lr: 1\n  lr: 2\n", ["line 3", "'lr'"]),
        ('x: !!python/object/apply:os.system ["touch PWNED"]\n', ["line 1", "tag"]),
        ("x: !!str 5\n", ["tag"]),
        ("x: !custom {a: 1}\n", ["tag", "!custom"]),
        ("a: [1,\nb: }", ["line", "not valid YAML"]),
        ("a: 1\n---\nb: 2\n", ["second document"]),
        ("1: x\n", ["line 1", "key", "1"]),
        ("true: x\n", ["key"]),
        ("? [a, b]\n: c\n", ["key"]),
        ("a: &a [*a]\n", ["alias contains itself"]),
        ("[" * 200 + "]" * 200, ["deep"]),
        ("a: " + "9" * 5000, ["digits"]),
        ("a: \x07", ["not valid YAML"]),
        ("a: *nowhere", ["nowhere"]),
        ('a: "\\ud800"', ["half a character"]),
    ],
)
def test_what_is_refused_is_named_in_one_line(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_yaml(text, "run.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("run.yaml")
    for word in words:
        assert word in message


def test_an_alias_bomb_is_refused_and_a_plain_alias_is_not() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match="aliases"):
        load_yaml("\n".join(levels), "bomb.yaml")
    chain = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 150))]
    with pytest.raises(UserError, match="deep"):
        load_yaml("\n".join(chain), "chain.yaml")
    assert load_yaml("a: &x {lr: 1}\nb: *x\n", "ok.yaml") == {"a": {"lr": 1}, "b": {"lr": 1}}


def test_files_that_cannot_be_read_name_themselves(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        load_yaml_file(tmp_path / "nowhere.yaml")
    big = tmp_path / "big.yaml"
    big.write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(UserError, match=r"big\.yaml: larger"):
        load_yaml_file(big)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: not UTF-8"):
        load_yaml_file(latin)


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)
NUMBERS = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON_VALUES)
def test_json_is_read_as_json_means_it(value: object) -> None:
    assert load_yaml(json.dumps(value), "x.yaml") == value


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-{}[]&*!|>'\"#,% \n1.e~?", max_size=40))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    message = ""
    try:
        load_yaml(text, "x.yaml")
    except UserError as error:
        message = str(error)
    assert "\n" not in message


def test_the_reader_leaves_pyyaml_as_it_was() -> None:
    assert yaml.safe_load("no") is False
