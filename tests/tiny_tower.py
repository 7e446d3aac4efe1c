"""A checkpoint small enough for any test: a random two-layer BERT over letters, no network, no package weights."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from retrieval.towers.checkpoint import write_checkpoint
from retrieval.towers.encoder import Encoder
from retrieval.towers.projection import Projection

HIDDEN = 32


def tiny_tokenizer() -> Tokenizer:
    """WordPiece over single ASCII characters; anything else is [UNK]."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in string.ascii_lowercase + string.digits)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def tiny_encoder(*, seed: int = 0, max_tokens: int = 32) -> Encoder:
    """A random encoder of width HIDDEN, the same for the same seed, without touching torch's global generator."""
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
        with torch.no_grad():  # BERT's own initial spread is so small that all texts would look alike
            model.embeddings.word_embeddings.weight.normal_()
    return Encoder(model, tokenizer.to_str(), max_tokens=max_tokens)


def make_tiny_checkpoint(path: Path, d: int = 256, seed: int = 0) -> Path:
    """Write a random checkpoint of d dimensions to the folder `path` and return it; another seed is another space."""
    weight = np.random.default_rng(seed).standard_normal((d, HIDDEN)).astype(np.float32)
    write_checkpoint(path, encoder=tiny_encoder(seed=seed), projection=Projection(weight))
    return path
