"""Commands whose options are made from a model: flags, defaults, bounds and help, and what the model makes of values."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from annotated_types import Ge, Le
from pydantic import BaseModel
from typer.main import get_command

from sharegrpo_rl.cli import app, run
from sharegrpo_rl.cli.model_options import options_of
from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.expansion.options import ExpandOptions
from sharegrpo_rl.reports.options import CompareOptions, ReproduceOptions
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions
from sharegrpo_rl.runs.run_file import TrainOptions

MODELS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "tune": TrainOptions,
    "compare": CompareOptions,
    "reproduce": ReproduceOptions,
    "evaluate": EvaluateOptions,
    "expand": ExpandOptions,
}
SPELLED = {"sets": "--set", "rows": "--row", "benchmarks": "--benchmark", "columns": "--column", "list_only": "--list"}
ARGUMENTS = {("compare", "files"), ("reproduce", "table"), ("expand", "data")}


def parameters(command: str) -> dict[str, Any]:
    group: Any = get_command(app)
    return {str(p.name): p for p in group.commands[command].params}


@pytest.mark.parametrize(("command", "model"), MODELS.items())
def test_every_field_is_an_option_with_the_models_words(command: str, model: type[Options]) -> None:
    shown = parameters(command)
    for name, field in model.model_fields.items():
        parameter = shown[name]
        assert parameter.required == field.is_required()
        if (command, name) in ARGUMENTS:
            assert parameter.param_type_name == "argument"
            continue
        assert parameter.param_type_name == "option"
        assert parameter.opts == [SPELLED.get(name, f"--{name.replace('_', '-')}")]
        assert parameter.help == field.description
        default = field.get_default(call_default_factory=True)
        if not isinstance(default, list | dict) and not field.is_required():
            assert parameter.default == default
        if not hasattr(parameter, "type"):
            continue  # later typers keep the bounds to themselves; that they hold is the next tests'
        bounds = {type(b): b for b in field.metadata}
        if Ge in bounds:
            assert parameter.type.min == bounds[Ge].ge
        if Le in bounds:
            assert parameter.type.max == bounds[Le].le


class Made(Options):
    """One field of each kind."""

    count: int = option(..., "how many", ge=1)
    share: float = option(0.5, "a share", ge=0, le=1)
    fast: bool = option(False, "in a hurry")
    names: list[str] = option([], "who")
    pairs: dict[str, Any] = option({}, "which")


def called_with(*words: str) -> dict[str, Any]:
    """What the command gets: the model's values and its own."""
    got: dict[str, Any] = {}

    @options_of(Made, names=typer.Option("--name"))
    def command(options: Made, own: Annotated[str, typer.Option(help="the command's own")] = "mine") -> None:
        got.update(options.as_dict(), own=own)

    single = typer.Typer()
    single.command()(command)
    single(list(words), standalone_mode=False)
    return got


def test_a_command_gets_the_checked_model_and_its_own_options() -> None:
    made = {"count": 3, "share": 0.5, "fast": False, "names": [], "pairs": {}}
    assert called_with("--count", "3") == {**made, "own": "mine"}
    many = called_with("--count", "3", "--fast", "--name", "a", "--name", "b", "--own", "yours")
    assert (many["fast"], many["names"], many["own"]) == (True, ["a", "b"], "yours")


@pytest.mark.parametrize(
    "words", [(), ("--count", "0"), ("--count", "3", "--share", "1.5"), ("--count", "3", "--fats")]
)
def test_what_the_fields_do_not_allow_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(typer.BadParameter.__mro__[1]):  # UsageError, of click or of the copy in typer
        called_with(*words)


@pytest.mark.parametrize("name", ["temperature", "timeout", "requests_per_minute"])
def test_a_number_that_is_none_ends_with_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["expand", "DATA", "--out", "new", "--local", "folder", f"--{name.replace('_', '-')}", "nan"]
    assert run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    flag = name.replace("_", "-")
    if typer.BadParameter.__module__.startswith("click"):
        assert line == f"error: {name}: nan is not a finite number"
    else:  # later typers refuse it themselves: NaN is within no bounds
        assert line.startswith(f"error: Invalid value for '--{flag}'")


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("name", ["../x", "", " x", ".hidden"])
def test_a_name_that_leaves_the_storage_folder_is_refused(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "share_grpo/drawn_shapes-tiny", "--name", name]) == 2
    assert f"--name: {name!r} cannot name a run's folder" in capsys.readouterr().err


def test_models_of_commands_are_options() -> None:
    """So that they refuse unknown keys and values of other types in Python, too."""
    assert all(issubclass(model, BaseModel) and model.model_config["extra"] == "forbid" for model in MODELS.values())
