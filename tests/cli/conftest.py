from __future__ import annotations

import pytest
from small_run import Done, make_done


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return make_done(tmp_path_factory.mktemp("done"))
