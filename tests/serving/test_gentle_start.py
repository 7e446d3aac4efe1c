"""What a swap does beside calls at work gives way to them."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.serving.operate.process import keep_out_of_collections
from retrieval.serving.swap import ready


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no idle scheduling")
def test_the_probing_process_gives_way_before_it_imports_anything(tmp_path: Path) -> None:
    told = "import os, sys; print(os.sched_getscheduler(0) == os.SCHED_IDLE, 'numpy' in sys.modules, *sys.argv[1:])"
    (tmp_path / "telling.py").write_text(told)
    start = ready._GIVE_WAY.replace(repr(ready._MODULE), repr("telling"))
    said = subprocess.run(
        [sys.executable, "-S", "-c", start, ready.WAIT, "3"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert said.stdout.split() == ["True", "False", ready.WAIT, "3"]


def test_what_is_loaded_is_not_walked_again_by_the_garbage_collector() -> None:
    before = gc.get_freeze_count()
    try:
        keep_out_of_collections()
        assert gc.get_freeze_count() > before + 1_000
    finally:
        gc.unfreeze()
