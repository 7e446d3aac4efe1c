"""A killed build says nothing of its own on the terminal, and its semaphores are gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal
from index_builders.workers import make_executor

if __name__ == "__main__":
    with make_executor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
        assert os.environ.get("PYTHONWARNINGS") == {before!r}
        print(*os.listdir("/dev/shm"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="named semaphores are files only on Linux")
@pytest.mark.parametrize("before", [None, "default::ResourceWarning"])
def test_no_warning_after_a_kill(tmp_path, before):
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT.format(before=before))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    if before is not None:
        environment["PYTHONWARNINGS"] = before
    root = str(Path(__file__).parents[2])
    # the pipes close when the last process that holds them, the tracker, has ended
    ended = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "PYTHONPATH": root},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.strip(), "the pool made no semaphores: this test would see nothing"
