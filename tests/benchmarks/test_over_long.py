"""The search for over-long questions: the second look has the first one's result, and reads no row."""

from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_second_look_finds_what_the_first_did(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import over_long

    from sharegrpo_rl.algorithms import run_data

    found = over_long.measure(300, 12, 512, tmp_path)
    assert 0 < found["first"]["over_long"] < 300
    monkeypatch.setattr(run_data, "fitting_questions", lambda *_: pytest.fail("looked again"))
    assert over_long._look(tmp_path, 512)["over_long"] == found["first"]["over_long"] == found["second"]["over_long"]
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        over_long._look(tmp_path, 511)  # another limit
