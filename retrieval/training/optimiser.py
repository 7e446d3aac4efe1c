"""The optimiser of a training and its schedule: which weights learn at which rate, and how the rates change by step.

AdamW in groups: heads and perceptron, hash embeddings, transformer, temperature. The rate of a step follows from its
number alone. Knows nothing about losses or data.
"""

from __future__ import annotations

import torch
from torch import nn

from retrieval.training.config import RunSettings

_LOWEST_RATE = 0.01  # of the initial one, reached at the last step


def make_optimiser(model: nn.Module, run: RunSettings) -> torch.optim.Optimizer:
    """AdamW over the parameters of a `UnifiedModel` that are trained; weight decay spares the temperature."""
    groups: dict[str, list[nn.Parameter]] = {"heads": [], "tokens": [], "encoder": [], "temperature": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = name.split(".")[0]
        group = kind if kind in groups else "tokens" if ".hashes." in name else "heads"
        groups[group].append(parameter)
    rates = {
        "heads": run.learning_rate,
        "tokens": run.learning_rate_tokens,
        "encoder": run.learning_rate_encoder,
        "temperature": run.learning_rate,
    }
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "initial_lr": rates[name],
                "weight_decay": 0.0 if name == "temperature" else run.weight_decay,
            }
            for name, parameters in groups.items()
            if parameters
        ],
        fused=True,
    )


def set_rates(optimiser: torch.optim.Optimizer, step: int, run: RunSettings) -> float:
    """Set the learning rates of step `step` (from 0) and return their share of the initial ones."""
    share = rate_of_step(step, run)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * share
    return share


def rate_of_step(step: int, run: RunSettings) -> float:
    """Linear warm-up, then linear decay to a hundredth."""
    if step < run.warmup_steps:
        return (step + 1) / (run.warmup_steps + 1)
    return max(_LOWEST_RATE, 1 - (step - run.warmup_steps) / max(1, run.steps - run.warmup_steps))
