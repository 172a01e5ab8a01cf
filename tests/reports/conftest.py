"""The fixture that writes finished runs."""

from pathlib import Path

import pytest
from run_maker import RunMaker


@pytest.fixture
def maker(tmp_path: Path) -> RunMaker:
    return RunMaker(tmp_path)
