"""Who may import whom, read from the sources; and what merely importing the package loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sharegrpo_rl
from sharegrpo_rl import grader

PACKAGE = Path(sharegrpo_rl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms by layer: a room imports rooms of earlier layers, and itself, but not its neighbours.
LAYERS = (
    ("errors",),
    ("files",),
    ("ops", "statistics"),
    ("data",),
    ("config",),
    ("grader", "models"),
    ("rewards", "generation", "planning"),
    ("envs", "expansion", "training"),
    ("learners", "evaluation"),
    ("rollouts",),
    ("algorithms",),
    ("runs",),
    ("search", "reports"),
    ("cli",),
)
FORBIDDEN = {
    "ops": {room for layer in LAYERS for room in layer} - {"ops"},
    "envs": {"models", "generation"},
    "training": {"grader", "rewards"},
    "learners": {"envs", "grader", "rewards"},
}
MAY_IMPORT = {
    room: {earlier for before in LAYERS[:i] for earlier in before} - FORBIDDEN.get(room, set()) | {room}
    for i, layer in enumerate(LAYERS)
    for room in layer
}
TORCH = {"ops", "models", "generation", "training", "rollouts", "learners", "algorithms", "runs", "search"}
THIRD_PARTY = {
    "torch": TORCH | {"cli"},
    "transformers": {"models"},
    "peft": {"models"},
    "vllm": {"generation"},
    "ray": {"rollouts", "learners", "algorithms", "runs", "search"},
    "openai": {"expansion"},
    "httpx2": {"expansion"},
    "scipy": {"statistics", "evaluation"},
    "matplotlib": {"reports", "runs", "search"},
    "gymnasium": {"envs", "rollouts", "learners", "algorithms", "evaluation"},
}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Every module that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "sharegrpo_rl":
                yield from (f"sharegrpo_rl.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_downwards_only(room):
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in FILES
        if room_of(path) == room
        for module in imports(path)
        if module.startswith("sharegrpo_rl.") and module.split(".")[1] not in MAY_IMPORT[room] | {"__version__"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_grader_has_one_door():
    """Other rooms import the names that `sharegrpo_rl.grader` offers, and none of its modules."""
    offered = {f"sharegrpo_rl.grader.{name}" for name in grader.__all__}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in FILES
        if room_of(path) != "grader"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        for name in [f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name]
        if name.startswith("sharegrpo_rl.grader.") and name not in offered
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", THIRD_PARTY)
def test_libraries_have_their_homes(library):
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in FILES
        if room_of(path) not in THIRD_PARTY[library]
        for module in imports(path)
        if module and module.split(".")[0] == library
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_layer():
    assert {room_of(p) for p in FILES} - set(MAY_IMPORT) == {"__init__"}


def loaded_after(statement):
    """Names in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_is_light():
    assert not loaded_after("import sharegrpo_rl") & {
        "torch",
        "ray",
        "transformers",
        "vllm",
        "datasets",
        "pyarrow",
        "pydantic",
    }


def test_data_rewards_and_envs_need_no_torch():
    parts = ["data.loading", "rewards.rubric", "grader", "envs.registry", "envs.tasks.drawn_shapes"]
    assert not loaded_after(f"import {', '.join('sharegrpo_rl.' + p for p in parts)}") & {
        "torch",
        "ray",
        "transformers",
        "math_verify",
    }


def test_expansion_through_an_endpoint_needs_no_torch():
    assert not loaded_after(
        "import sharegrpo_rl.expansion.expand, sharegrpo_rl.expansion.endpoint, sharegrpo_rl.expansion.local"
    ) & {"torch", "ray", "transformers", "datasets"}


def test_plans_of_known_models_need_no_torch():
    parts = ["planning.estimate", "planning.describe", "planning.remedies", "models.sizes"]
    assert not loaded_after(f"import {', '.join('sharegrpo_rl.' + p for p in parts)}") & {
        "torch",
        "ray",
        "transformers",
    }


def test_models_generation_and_training_need_no_ray():
    parts = ["ops.policy_loss", "models.loading", "models.tiny", "generation.hf", "training.step"]
    assert not loaded_after(f"import {', '.join('sharegrpo_rl.' + p for p in parts)}") & {
        "ray",
        "gymnasium.envs.mujoco",
    }


def calls(tree, name):
    """Calls of a plain name or of a dotted one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            yield node.lineno


@pytest.mark.parametrize("name", ["eval", "exec", "pickle.load", "pickle.loads", "torch.load", "cloudpickle.loads"])
def test_no_code_is_run_from_data(name):
    found = {p.name: list(calls(ast.parse(p.read_text()), name)) for p in FILES}
    assert {k: v for k, v in found.items() if v} == {}


def test_no_error_is_swallowed():
    """No `except ...: pass`, no bare `except:`."""
    found = [
        f"{p.relative_to(PACKAGE)}:{node.lineno}"
        for p in FILES
        for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or [type(n) for n in node.body] == [ast.Pass])
    ]
    assert found == []


def test_remote_code_is_never_trusted():
    assert [p.name for p in FILES if "trust_remote_code=True" in p.read_text()] == []
