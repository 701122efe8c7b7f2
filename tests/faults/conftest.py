"""For the tests of faults."""

from __future__ import annotations

import pytest

from tests.faults.originals import Originals


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Originals:
    """Good files, which the workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "originals"
    folder.mkdir(exist_ok=True)
    return Originals(folder)
