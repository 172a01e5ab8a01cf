import pickle

import pytest

from sharegrpo_rl.data.loading import load_bank
from sharegrpo_rl.data.tables import HubTable, hub_split, load_hub, looks_like_hub_name
from sharegrpo_rl.errors import UserError

datasets = pytest.importorskip("datasets")


def test_rows_keep_their_encoded_images(picture: bytes) -> None:
    image = {"bytes": picture, "path": "a.png"}
    features = datasets.Features(
        {"image": datasets.Image(), "images": datasets.List(datasets.Image()), "answer": datasets.Value("string")}
    )
    rows = [{"image": image, "images": [image, image], "answer": str(i)} for i in range(3)]
    table = HubTable(datasets.Dataset.from_list(rows, features=features), "owner/dots [train]")
    assert (len(table), table[2], table.location(2)) == (3, rows[2], "owner/dots [train] row 2")
    assert pickle.loads(pickle.dumps(table))[1] == rows[1]


def test_validation_stands_in_for_test() -> None:
    tables = {name: object() for name in ("train", "validation")}
    assert hub_split(tables, "test") is tables["validation"]
    assert hub_split(tables, "train") is tables["train"]
    assert hub_split({}, "test") is None


@pytest.mark.parametrize(
    ("data", "hub"),
    [
        ("owner/dots", True),
        ("dots", True),
        ("data/dots", False),
        ("./dots", False),
        ("/dots", False),
        ("a/b/c", False),
        ("dots.jsonl", False),
        ("../dots", False),
    ],
)
def test_names_and_paths_are_told_apart(data: str, hub: bool) -> None:
    assert looks_like_hub_name(data) == hub


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for open_it in (lambda: load_hub("owner/dots", None), lambda: load_bank("owner/dots", "train")):
        with pytest.raises(UserError, match=r"owner/dots .*check the name"):
            open_it()
