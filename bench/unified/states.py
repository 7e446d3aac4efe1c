"""Pooled states of the frozen encoder, kept by text: variants that share texts share the work of encoding them.

    FOLDER/00000.npz    keys (16 bytes of SHA-256 of encoder, tokens and text), states float16 [n, hidden]

Knows nothing about tables or models.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retrieval.towers.encoder import Encoder, Precision
from retrieval.towers.entity_parts import unit
from retrieval.types import F16

_CHUNK = 4_096  # texts whose encoding a kill can lose


class States:
    """Encodes texts that it has not seen before."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self._folder, self._encoder = folder, encoder.computing_in(Precision.AUTO)
        digest = hashlib.sha256(f"{encoder.max_tokens} {self._encoder.precision}".encode())
        for part in encoder.parts().values():
            digest.update(part)
        self._salt = digest.digest()
        self._known: dict[bytes, F16] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("[0-9]*.npz")):
            with np.load(file) as stored:
                self._known.update(zip([bytes(key) for key in stored["keys"]], stored["states"], strict=True))

    def of(self, texts: Sequence[str], progress: Callable[[str, int, int], None]) -> F16:
        """Unit states float16 [n, hidden]; zero where the text is empty."""
        keys = [hashlib.sha256(self._salt + text.encode()).digest()[:16] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if text and key not in self._known}
        todo = list(missing.items())
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            found = unit(self._encoder.encode([text for _, text in chunk])).astype(np.float16)
            self._keep([key for key, _ in chunk], found)
            progress("encode texts", min(start + _CHUNK, len(todo)), len(todo))
        out = np.zeros((len(texts), self._encoder.hidden), dtype=np.float16)
        for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
            if text:
                out[row] = self._known[key]
        return out

    def _keep(self, keys: Sequence[bytes], states: F16) -> None:
        file = self._folder / f"{len(list(self._folder.glob('[0-9]*.npz'))):05d}.npz"
        partial = file.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, keys=np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16), states=states)
        os.replace(partial, file)
        self._known.update(zip(keys, states, strict=True))
