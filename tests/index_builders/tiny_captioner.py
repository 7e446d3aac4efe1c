"""A captioner of a few thousand weights with a vocabulary of its own, and PNG files to caption."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from transformers.utils import logging

SPECIAL = ["<pad>", "<s>", "</s>"]
WORDS = [f"W{i}" for i in range(40)]


def save_captioner(folder: Path) -> Path:
    """A ViT with a GPT-2 decoder, weights large enough that images differ in their captions."""
    names = [*SPECIAL, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    small = {"initializer_range": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = ViTModel(
            ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
                patch_size=16, initializer_range=2.0,
            )
        )  # fmt: skip
        decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(names), n_positions=64, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True,
                is_decoder=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, **small,
            )
        )  # fmt: skip
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    # written by hand: the class has another name in each version of the library
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": true,'
        ' "do_rescale": true, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    return folder


def save_images(folder: Path, count: int) -> Path:
    """Noise of falling brightness as 000.png, 001.png, …"""
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8) // (i + 1)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder
