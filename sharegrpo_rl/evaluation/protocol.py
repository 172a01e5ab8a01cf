"""How an evaluation was made: everything that a figure depends on, under names that a reader can compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sharegrpo_rl import __version__, rewards
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.evaluation.evaluate import wording_of

Protocol = dict[str, Any]


def grader_version() -> str:
    """Names the rules that graded: the package's version and a digest of the source of `rewards/`."""
    digest = blake2b(digest_size=6)
    folder = Path(rewards.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"rule-based, sharegrpo_rl {__version__}, rules {digest.hexdigest()}"


def data_digest(bank: QuestionBank, questions: int) -> str:
    """Digest of the asked questions: ids, wordings, answers, choices and image contents, in order."""
    digest = blake2b(digest_size=16)
    for index in range(questions):
        question = bank[index]
        asked = [question.id, question.wordings[wording_of(question, index)], question.answer, *question.choices]
        images = [image.fingerprint() for image in question.images]
        digest.update(json.dumps([asked, images], ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """Digest of a model folder's weights and settings, by content."""
    digest = blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja")):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def differences(one: Any, other: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """{dotted key: (one's value, the other's)} wherever two protocols differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*one, *other]):
            found |= differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
        return found
    return {} if one == other else {name: (one, other)}
