import numpy as np
import numpy.typing as npt

_F32 = npt.NDArray[np.float32]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_U8 = npt.NDArray[np.uint8]
_U32 = npt.NDArray[np.uint32]
_Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]

def levels() -> list[str]: ...
def code_width(d: int) -> int: ...
def count(allow: _U8 | None, deleted: _U8 | None, n: int) -> int: ...
def score(vectors: _Vectors, xq: _F32, rows: _I32, out: _F32, metric: int, threads: int, level: str) -> None: ...
def rescore(
    vectors: _Vectors, xq: _F32, candidates: _I32, rows: _I32, scores: _F32, metric: int, threads: int, level: str
) -> None: ...
def scan(
    vectors: _Vectors,
    xq: _F32,
    rows: _I32,
    scores: _F32,
    metric: int,
    allow: _U8 | None,
    deleted: _U8 | None,
    codes: _U8 | None,
    scale: _F32 | None,
    bias: _F32 | None,
    seed: int,
    code_error: float,
    threads: int,
    level: str,
) -> int: ...
def encode(
    vectors: _Vectors, codes: _U8, scale: _F32 | None, bias: _F32 | None, seed: int, threads: int
) -> tuple[float, float, float]: ...
def spread(neighbors: _U32, sources: _U32, owner: _U32, order: _U32) -> None: ...

class Graph:
    def __init__(
        self,
        vectors: _Vectors,
        neighbors: _U32,
        upper_rows: _U32,
        upper_down: _U32,
        upper_neighbors: _U32,
        layer_first: list[int],
        entry: int,
        metric: int,
        codes: _U8 | None,
        scale: _F32 | None,
        bias: _F32 | None,
        seed: int,
        code_error: float,
        walk_bits: int,
    ) -> None: ...
    def search(
        self,
        xq: _F32,
        rows: _I32,
        scores: _F32,
        distances: _I64,
        hops: _I64,
        ef: int,
        max_distances: int,
        allow: _U8 | None,
        deleted: _U8 | None,
        threads: int,
        level: str,
        scan_only: bool,
    ) -> None: ...
