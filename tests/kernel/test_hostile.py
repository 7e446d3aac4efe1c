"""Files of valid shape and hostile content, opened and searched in a child process: refused or answered, never a crash.

The checksum of such a file may be right, so nothing but the reader's own checks stands between it and the search.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bench.data import clustered
from index_builders import hnsw
from retrieval import kernel
from retrieval.params import HnswBuild
from retrieval.types import Metric

SEARCH = """
import sys
sys.path.insert(0, sys.argv[3])
from sanitized import use_native
use_native(sys.argv[6])
from pathlib import Path
import numpy as np
from retrieval import kernel
from retrieval.errors import DamagedData
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import HnswSearch
from hostile_mutations import mutate
np.seterr(all="ignore")
source, target = Path(sys.argv[1]), Path(sys.argv[2])
opened = refused = 0
for seed in range(int(sys.argv[4]), int(sys.argv[5])):
    mutate(source, target, seed)
    try:
        index = HnswIndex.open(target)
    except DamagedData:
        refused += 1
        continue
    opened += 1
    xq = np.random.default_rng(seed).standard_normal((3, index.d), dtype=np.float32)
    allow = np.random.default_rng(seed).integers(0, 256, (index.n + 7) // 8, dtype=np.uint8)
    for bits in (None, allow):
        found = index.search(xq, 10, HnswSearch(ef=40), allow=bits)
        walked = index.graph.search(xq, 10, 40, allow=bits)[0]
        for rows in (found.rows, walked):
            assert ((rows >= -1) & (rows < index.n)).all()
            for line in rows:
                present = line[line >= 0]
                assert len(set(present)) == len(present)
print(opened, refused)
"""


def run(tmp_path, first, last, module="", environment=None):
    source = tmp_path / "source"
    if not source.exists():
        source.mkdir()
        x = clustered(700, 20, seed=1) * np.linspace(0.5, 2, 700, dtype=np.float32)[:, None]
        hnsw.build_shard(x, source, params=HnswBuild(m=4), metric=Metric.L2, seed=1)
    target = tmp_path / f"target{first}"
    shutil.copytree(source, target)
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", SEARCH, str(source), str(target), here, str(first), str(last), module]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, **(environment or {})}, check=False
    )
    assert done.returncode == 0, f"seeds {first}..{last}: exit {done.returncode}\n{done.stderr[:3000]}"
    return [int(v) for v in done.stdout.split()]


def test_mutated_shards_are_refused_or_answered(tmp_path):
    opened, refused = run(tmp_path, 0, 300)
    assert opened > 30
    assert refused > 100, "the checks refuse too little"


@pytest.mark.long
def test_three_thousand_mutated_shards_under_sanitizers(tmp_path):
    module, environment = build_sanitized(tmp_path, "address,undefined", "libasan.so")
    opened, refused = run(tmp_path, 300, 3_300, str(module), environment)
    assert opened + refused == 3_000


CONCURRENT = """
import sys
sys.path.insert(0, sys.argv[2])
from sanitized import use_native
use_native(sys.argv[3])
import threading
from pathlib import Path
import numpy as np
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import HnswSearch
index = HnswIndex.open(Path(sys.argv[1]))
xq = np.random.default_rng(1).standard_normal((64, index.d), dtype=np.float32)
bits = np.full((index.n + 7) // 8, 0x55, dtype=np.uint8)
expected = index.search(xq, 10, HnswSearch(ef=50)).rows
wrong = []
def work():
    for _ in range(10):
        if (index.search(xq, 10, HnswSearch(ef=50), threads=2).rows != expected).any():
            wrong.append(1)
        index.search(xq, 10, HnswSearch(ef=50), allow=bits, threads=2)
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong
"""


@pytest.mark.long
def test_concurrent_searches_under_the_thread_sanitizer(tmp_path):
    run(tmp_path, 0, 1)
    module, environment = build_sanitized(tmp_path, "thread", "libtsan.so")
    command = [sys.executable, "-c", CONCURRENT, str(tmp_path / "source"), os.path.dirname(__file__), str(module)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "data race" not in done.stderr, done.stderr[-4000:]


def test_two_processes_share_the_pages_of_one_shard(tmp_path):
    if not os.path.exists("/proc/self/smaps"):
        pytest.skip("needs /proc/self/smaps")
    x = clustered(20_000, 64, seed=1)
    hnsw.build_shard(x, tmp_path, params=HnswBuild(m=4, ef_construction=20), metric=Metric.COSINE, seed=1, threads=2)
    code = (
        "import sys; from pathlib import Path; import numpy as np; from retrieval import kernel\n"
        "from retrieval.indexes.hnsw import HnswIndex\n"
        "index = HnswIndex.open(Path(sys.argv[1])); xq = np.ones((1, 64), dtype=np.float32)\n"
        "index.graph.scan(xq, 10)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "part, shared, own = '', 0, 0\n"
        "for line in open('/proc/self/smaps'):\n"
        "    words = line.split()\n"
        "    if '-' in words[0] and not words[0].endswith(':'): part = words[-1]\n"
        "    elif 'index.codes' in part and words[0] == 'Shared_Clean:': shared += int(words[1])\n"
        "    elif 'index.codes' in part and words[0].startswith('Private_'): own += int(words[1])\n"
        "print(shared, own)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        shared, own = (int(v) for v in children[0].communicate("go\n", timeout=60)[0].split())
    finally:
        for child in children:
            child.communicate()
    assert shared >= 20_000 * 64 // 1024, "the codes are not shared"
    assert own == 0, f"{own} KiB of the codes are private copies"


def build_sanitized(tmp_path, sanitizers, runtime):
    """Build the kernel with sanitizers: (module, environment to preload their runtime), or skip where there is none."""
    compiler, cmake = shutil.which("g++"), shutil.which("cmake")
    if compiler is None or cmake is None or sys.platform != "linux":
        pytest.skip("needs g++ and cmake on Linux")
    # libstdc++ too: the sanitizer looks up its __cxa_throw when it starts, before the module would load it
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in (runtime, "libstdc++.so.6")
    ]
    if not all(os.path.isabs(library) for library in libraries):
        pytest.skip(f"{runtime} is not installed")
    build = tmp_path / "build"
    source = os.path.dirname(kernel.__file__)
    options = [f"-DPython_EXECUTABLE={sys.executable}", f"-DKERNEL_SANITIZE={sanitizers}"]
    for command in ([cmake, "-S", source, "-B", str(build), *options], [cmake, "--build", str(build), "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (module,) = build.glob("_native*.so")
    return module, {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "TSAN_OPTIONS": "report_signal_unsafe=0 exitcode=66",
    }


def test_descriptions_of_the_wrong_shape_are_refused(tmp_path):
    run(tmp_path, 0, 1)
    source = tmp_path / "source"
    text = json.loads((source / "index.json").read_text())
    from retrieval.errors import DamagedData
    from retrieval.indexes.hnsw import HnswIndex

    for key, value in (
        ("n", 701),
        ("n", -1),
        ("n", "700"),
        ("d", 21),
        ("metric", "hamming"),
        ("vectors", "float64"),
        ("width", 9),
        ("upper_width", 0),
        ("layer_first", []),
        ("layer_first", [0, 10**12]),
        ("entry", 10**9),
        ("entry", -1),
        ("codes", {"walk_bits": 5, "seed": 1, "unit": False, "error": 1.0}),
        ("codes", {"walk_bits": 8, "seed": 1, "unit": True, "error": 1.0}),
        ("surprise", 1),
    ):
        (source / "index.json").write_text(json.dumps({**text, key: value}))
        with pytest.raises(DamagedData, match=r"\w"):
            HnswIndex.open(source)
    (source / "index.json").write_text("[" * 100_000)
    with pytest.raises(DamagedData, match="cannot be read"):
        HnswIndex.open(source)
