"""The forward pass of a BERT encoder in bfloat16 over packed texts: texts of one length side by side, no padding.

Linear layers see the tokens of all texts as one matrix; attention runs once per length (Devlin et al. 2019, post-norm
layers). Weights are copied, so later training of the model does not reach them. Knows nothing about tokenizers, about
pretrained files or about when bfloat16 is worth using, but for whether this CPU has instructions for it.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ACTIVATIONS = ("gelu",)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); without it float32 is faster."""
    # torch names these checks with an underscore: absent from another release, they count as a no
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(check()) for check in checks if check is not None)


def can_pack(model: Any) -> bool:
    """Whether `PackedBert` computes what `model` does: a plain BERT encoder with GELU."""
    config = model.config
    return bool(
        config.model_type == "bert"
        and config.hidden_act in _ACTIVATIONS
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
        and not getattr(config, "is_decoder", False)
    )


class PackedBert:
    """A frozen copy of a BERT encoder's weights in bfloat16. Keeps no state: any number of threads may call it."""

    def __init__(self, model: Any) -> None:
        """model: a transformers BertModel that `can_pack` accepts."""
        state = {name: value.detach() for name, value in model.state_dict().items()}
        config = model.config
        self._heads, self._eps = int(config.num_attention_heads), float(config.layer_norm_eps)
        self._words = state["embeddings.word_embeddings.weight"].clone()
        self._positions = (
            state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = state["embeddings.LayerNorm.weight"].clone(), state["embeddings.LayerNorm.bias"].clone()
        self._layers = [_layer(state, f"encoder.layer.{number}.") for number in range(config.num_hidden_layers)]

    def __call__(self, tokens: list[list[int]]) -> Tensor:
        """Mean-pooled states float32 [n, hidden] of n texts' token ids; texts of one length stand together."""
        shapes = [(len(list(group)), length) for length, group in groupby(tokens, key=len)]
        ids = torch.tensor([number for text in tokens for number in text])
        places = torch.tensor([place for text in tokens for place in range(len(text))])
        width = self._words.shape[1]
        states = self._words[ids] + self._positions[places]
        states = functional.layer_norm(states, (width,), *self._norm, self._eps).bfloat16()
        for joint, attended, norm_1, inner, outer, norm_2 in self._layers:
            context = self._attend(joint(states), shapes)
            states = functional.layer_norm(attended(context) + states, (width,), *norm_1, self._eps)
            states = functional.layer_norm(outer(functional.gelu(inner(states))) + states, (width,), *norm_2, self._eps)
        sizes = [texts * length for texts, length in shapes]
        parts = states.float().split(sizes)  # type: ignore[no-untyped-call]
        return torch.cat(
            [part.view(texts, length, width).mean(dim=1) for part, (texts, length) in zip(parts, shapes, strict=True)]
        )

    def _attend(self, joint: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        out = []
        parts = joint.split([texts * length for texts, length in shapes])  # type: ignore[no-untyped-call]
        for part, (texts, length) in zip(parts, shapes, strict=True):
            query, key, value = part.view(texts, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(query, key, value)
            out.append(attended.transpose(1, 2).reshape(texts * length, -1))
        return torch.cat(out)


class _Linear:
    """A linear layer in bfloat16 whose weight lies in the order that oneDNN multiplies in, where torch offers that.

    Without it every call reorders the whole weight again, which for one short text takes longer than the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias, self._ordered = weight, bias, False
        # private names of torch: in a release without them, the plain product serves
        operators = torch.ops.mkldnn
        try:
            ordered = operators._reorder_linear_weight(weight)
            operators._linear_pointwise(weight[:1], ordered, bias, "none", [], "")
        except (AttributeError, RuntimeError, TypeError):
            return
        self._weight, self._ordered = ordered, True

    def __call__(self, states: Tensor) -> Tensor:
        """[n, in] -> [n, out], bfloat16."""
        if not self._ordered:
            return functional.linear(states, self._weight, self._bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return product


_Pair = tuple[Tensor, Tensor]


def _layer(state: dict[str, Tensor], prefix: str) -> tuple[_Linear, _Linear, _Pair, _Linear, _Linear, _Pair]:
    def pair(name: str) -> _Pair:
        return state[f"{prefix}{name}.weight"].bfloat16(), state[f"{prefix}{name}.bias"].bfloat16()

    parts = [pair(f"attention.self.{name}") for name in ("query", "key", "value")]
    return (
        _Linear(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
        _Linear(*pair("attention.output.dense")),
        pair("attention.output.LayerNorm"),
        _Linear(*pair("intermediate.dense")),
        _Linear(*pair("output.dense")),
        pair("output.LayerNorm"),
    )
