"""kill -9 before every rename of an aggregation, spilling included: the next run ends with the same bytes."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
import killed_enrich

from index_builders.enrich import log as log_module
from index_builders.staging import hash_files


def test_killed_at_any_rename_the_next_run_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "SLICE_ROWS", 7)
    n = 20
    log = tmp_path / "log.parquet"
    times = pa.array([killed_enrich.NOW - timedelta(days=i) for i in range(n)], pa.timestamp("us", tz="UTC"))
    rows = {"id": [f"e{i % 5}" for i in range(n)], "query": [f"text {i % 3}" for i in range(n)]}
    pq.write_table(pa.table({**rows, "action": ["save"] * n, "time": times, "weight": [1.0] * n}), log)
    killed_enrich.run(log, tmp_path / "whole")
    whole = hash_files(tmp_path / "whole")
    (tmp_path / "outs").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, killed_enrich.__file__, str(log), str(tmp_path / "outs")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
    statuses = [int(line) for line in done.stdout.split()]
    # plan, three spills with their notes, the tally, three parts with their notes
    assert statuses == [signal.SIGKILL] * 14 + [0], done.stderr
    spilled = 0
    for number in range(15):
        out = tmp_path / "outs" / f"{number:02d}"
        spilled += (out / "_spill").is_dir() and not (out / "part-00000.parquet").exists()
        killed_enrich.run(log, out, killed_enrich.NOW if number == 0 else None)
        assert hash_files(out) == whole, f"killed at rename {number}"
    assert spilled >= 8, "kills must fall into the spilling"
