"""A small data set on disk, and a run on it that nothing stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.data.toy_street import write_camvid_tree
from tests.support.training_runs import run, spec_for


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Seven images: one does not fill a batch and is dropped, another one each epoch.
    return write_camvid_tree(tmp_path_factory.mktemp("data"), (48, 64), {"train": 7, "val": 2})


@pytest.fixture(scope="session")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    result = run(tree, spec_for(output))
    assert result.finished
    assert result.last == output / "last.pth"
    return output
