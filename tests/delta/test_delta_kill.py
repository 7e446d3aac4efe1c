"""kill -9 at random moments of writing: what was acknowledged stays, nothing torn is read, nothing deleted is back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_writer.py")


def run(home: Path, rounds: int) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(home), str(rounds), "7"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_twenty_kills(tmp_path: Path) -> None:
    assert run(tmp_path / "log", 20).startswith("20 kills")


@pytest.mark.long
def test_three_hundred_kills(tmp_path: Path) -> None:
    assert run(tmp_path / "log", 300).startswith("300 kills")
