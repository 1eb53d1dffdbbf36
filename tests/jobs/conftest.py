from __future__ import annotations

from pathlib import Path

import pytest
from quiet_run import write_quiet_run


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and a quiet run of them; each test writes runs of its own beside
    it.
    """
    place = tmp_path_factory.mktemp("faults")
    write_quiet_run(place)
    return place
