"""Which questions `evaluate` asks, where a model lies, and what an export copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.runs.evaluate_options import EvaluateOptions, choose_questions
from sharegrpo_rl.runs.folder import STATE_FILE
from sharegrpo_rl.runs.model_folder import IN_CHECKPOINT, export_checkpoint, find_model_folder, model_settings

DRAWN = {"env": "DrawnShapes-v0", "env_config": {"kinds": ["color"], "image_size": 56}}
FILES = {"env": "MultimodalQA-v0", "env_config": {"data": "a", "columns": {"question": "q"}, "kinds": ["k"]}}


def test_a_model_brings_its_own_questions() -> None:
    env, config = choose_questions(DRAWN, EvaluateOptions())
    assert (env, config["kinds"], config["image_size"]) == ("DrawnShapes-v0", ["color"], 56)
    assert choose_questions(DRAWN, EvaluateOptions(env="DrawnShapes-v0")) == (env, config)


def test_env_and_data_replace_only_the_questions() -> None:
    assert choose_questions(DRAWN, EvaluateOptions(data="some/set"))[0] == "MultimodalQA-v0"
    env, config = choose_questions(FILES, EvaluateOptions(data="b"))
    assert (env, config["data"], config["columns"], config["kinds"]) == ("MultimodalQA-v0", "b", {}, [])
    env, config = choose_questions(FILES, EvaluateOptions(data="a"))
    assert config["columns"] == {"question": "q"}
    env, config = choose_questions(FILES, EvaluateOptions(env="DrawnShapes-v0"))
    assert (env, config["kinds"]) == ("DrawnShapes-v0", ["counting", "color", "form"])
    assert choose_questions(FILES, EvaluateOptions(env="GeometryQA-v0", data="c"))[1]["data"] == "c"


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(UserError, match="makes its own questions"):
        choose_questions(FILES, EvaluateOptions(env="DrawnShapes-v0", data="b"))
    with pytest.raises(UserError, match="--env or --data"):
        choose_questions({"env": None, "env_config": {}}, EvaluateOptions())


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in ("model", "module_state"):
        (folder / f"{name}.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # without tensors
    return folder


def test_a_model_is_found_in_export_checkpoint_and_run(tmp_path: Path) -> None:
    export = make_model(tmp_path / "run" / "export")
    inside = make_model(tmp_path / "run" / "checkpoints" / "000002" / IN_CHECKPOINT)
    state = tmp_path / "run" / "checkpoints" / "000002" / STATE_FILE
    state.write_text(json.dumps({"iteration": 2, "seconds": 1.0, "row": {}}))
    assert find_model_folder(export) == export
    assert find_model_folder(tmp_path / "run" / "checkpoints" / "000002") == inside
    assert find_model_folder(tmp_path / "run") == export
    (export / "config.json").unlink()
    assert find_model_folder(tmp_path / "run") == inside
    with pytest.raises(UserError, match="no such model"):
        find_model_folder(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no model"):
        find_model_folder(tmp_path)


def test_an_export_copies_what_transformers_loads(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    export_checkpoint(model, tmp_path / "deep" / "out")
    assert sorted(p.name for p in (tmp_path / "deep" / "out").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(model, tmp_path / "deep" / "out")
    with pytest.raises(UserError, match="inside"):
        export_checkpoint(model, model / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_checkpoint(model, tmp_path / "file" / "out")


def test_settings_beside_a_model_are_checked(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    assert model_settings(model)["env"] is None
    file = model / "sharegrpo_rl.json"
    for text, word in (("{", "not the JSON"), ("3", "not the JSON"), ('{"env": "x"}', "has no 'env_config'")):
        file.write_text(text)
        with pytest.raises(UserError, match=word):
            model_settings(model)


def test_other_kinds_of_question_replace_the_run_s_own() -> None:
    env, config = choose_questions(DRAWN, EvaluateOptions(kinds="sides,angle"))
    assert (env, config["kinds"]) == ("DrawnShapes-v0", ["sides", "angle"])
    with pytest.raises(UserError, match="corners"):
        choose_questions(DRAWN, EvaluateOptions(kinds="corners"))


def test_a_mixture_is_evaluated_without_its_rewards() -> None:
    """Rewards of the user's own may be missing here, and no accuracy depends on them."""
    data = [{"data": "a", "rewards": {"not_imported_here": 1.0}}, {"data": "b", "task": "t"}]
    settings = {"env": "MathQA-v0", "env_config": {"data": data}}
    assert choose_questions(settings, EvaluateOptions())[1]["data"] == [{"data": "a"}, {"data": "b", "task": "t"}]
    assert choose_questions(settings, EvaluateOptions(data="c"))[1]["data"] == "c"
