"""The page for those who upgrade promises messages: each old name gives the error that the page shows."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import sharegrpo_rl
from sharegrpo_rl.config import resolve
from sharegrpo_rl.config.names import NESTED_NAMES, OLD_NAMES, OTHER_VALUES
from sharegrpo_rl.config.run import LoraOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.run_file import load_run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[tuple[str, str]]:
    """The two columns of the table under a heading."""
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    found = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", section, re.MULTILINE)
    assert found, heading
    return found


OPTIONS = rows("Options")
VALUES = rows("Keys of nested tables, and values")


@pytest.mark.parametrize(("old", "new"), OPTIONS)
def test_an_old_option_says_what_to_write(old: str, new: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("GRPO", yaml.safe_load(old))
    name = new.partition(":")[0]
    assert f"; it is called {name} here: write {new} (" in str(refusal.value)
    resolve("GRPO", yaml.safe_load(new))


@pytest.mark.parametrize(("old", "new"), VALUES)
def test_an_old_key_or_value_names_the_new_one(old: str, new: str) -> None:
    with pytest.raises(UserError) as refusal:
        resolve("GRPO", yaml.safe_load(old))
    (word,) = set(re.findall(r"\w+", new)) - set(re.findall(r"\w+", old))
    assert f"called {word} here" in str(refusal.value)
    resolve("GRPO", yaml.safe_load(new))


def test_every_old_name_of_the_code_is_on_the_page() -> None:
    assert {old.partition(":")[0] for old, _ in OPTIONS} == set(OLD_NAMES)
    for old, new in OPTIONS:
        assert OLD_NAMES[old.partition(":")[0]] == new.partition(":")[0]
    lora = [next(iter(yaml.safe_load(old)["lora"])) for old, _ in VALUES if old.startswith("lora")]
    known = set(LoraOptions.fields())
    assert set(lora) == {old for old, new in NESTED_NAMES.items() if new in known and not old.startswith("lora_")}
    for old, new in VALUES:
        (key, value), (_, ours) = (next(iter(yaml.safe_load(text).items())) for text in (old, new))
        assert key == "lora" or OTHER_VALUES[key][value] == ours


@pytest.mark.parametrize(("old", "new"), rows("Metrics"))
def test_an_old_metric_names_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    stop = {"training_iteration": 2, old: 1.0}
    file.write_text(yaml.safe_dump({"mine": {"run": "GRPO", "env": "DrawnShapes-v0", "stop": stop}}))
    with pytest.raises(UserError, match=f"did you mean {new}"):
        load_run(file)


@pytest.mark.parametrize(("old", "new"), rows("Python"))
def test_old_modules_are_gone_and_the_new_places_exist(old: str, new: str) -> None:
    assert exists(new)
    assert not exists(old)


def exists(dotted: str) -> bool:
    try:
        import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        try:
            return hasattr(import_module(module), name)
        except ModuleNotFoundError:
            return False
    return True


def test_the_version_is_one_and_has_its_entry_in_the_changelog() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert sharegrpo_rl.__version__ == project[1]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(project[1])}\] - \d{{4}}-\d\d-\d\d", headings[1])
    assert f"sharegrpo_rl-{project[1]}-py3-none-any.whl" in (ROOT / "README.md").read_text(encoding="utf-8")
