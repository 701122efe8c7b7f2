"""For all tests."""

import signal
import tempfile
from pathlib import Path

import pytest

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: tests
# that interrupt a program would wait for its end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that only this test writes to; other processes share /tmp."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
