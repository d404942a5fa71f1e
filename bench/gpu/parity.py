"""Compares faster implementations of the loss and of packed attention with those of the product."""

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.models.cross_entropy import token_losses
from finetune_trainer.tasks.text_generation.collate import concatenate_rows

_LENGTHS = (700, 300, 24)
"""Tokens of each packed row."""


def compare(config: dict[str, Any], tokens: int, device: torch.device) -> Iterator[tuple[str, str]]:
    """Yields the name of each implementation, and the largest difference or the reason for its absence.

    Args:
        config: config.json of the model.
        tokens: tokens of the compared losses.
        device: device of the tensors.
    """
    yield "Liger fused cross entropy, losses", _compare_liger(config, tokens, device)
    for name in ("flash_attention_2", "flex_attention"):
        yield f"packed rows with {name}, logits", _compare_attention(config, name, device)


def _compare_liger(config: dict[str, Any], tokens: int, device: torch.device) -> str:
    """Compares the losses and their gradients relative to the largest value."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger_kernel is not installed"
    liger: Any = importlib.import_module("liger_kernel.transformers")
    torch.manual_seed(0)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    head = torch.randn(vocabulary, hidden, dtype=torch.bfloat16, device=device) / hidden**0.5
    states = torch.randn(tokens, hidden, dtype=torch.bfloat16, device=device)
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for fused in (False, True):
        given = states.clone().requires_grad_()
        if fused:
            loss = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")(head, given, labels)
        else:
            loss = token_losses(given @ head.T, labels).sum()
        (gradient,) = torch.autograd.grad(loss, given)
        found.append((loss.detach().float(), gradient.float()))
    (loss, gradient), (other_loss, other_gradient) = found
    return (
        f"loss {float((other_loss / loss - 1).abs()):.1e},"
        f" gradient {float((other_gradient - gradient).abs().max() / gradient.abs().max()):.1e}"
    )


def _compare_attention(config: dict[str, Any], name: str, device: torch.device) -> str:
    """Compares the logits of packed rows with those of separate rows with the attention of the product."""
    if device.type != "cuda":
        return "needs a GPU"
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return "flash_attn is not installed"
    torch.manual_seed(0)
    small = AutoConfig.for_model(**{**config, "num_hidden_layers": 2})
    models = {}
    for attention in ("sdpa", name):
        with device:
            build: Any = AutoModelForCausalLM.from_config
            models[attention] = build(small, dtype=torch.bfloat16, attn_implementation=attention).eval()
    models[name].load_state_dict(models["sdpa"].state_dict())
    rows = [torch.randint(3, config["vocab_size"], (length,)).numpy() for length in _LENGTHS]
    with torch.no_grad():
        alone = [
            models["sdpa"](input_ids=torch.from_numpy(row)[None].to(device), use_cache=False).logits[0]
            for row in rows
        ]
        packed = {key: value.to(device) for key, value in concatenate_rows(rows).items()}
        found = models[name](**packed, use_cache=False).logits[0]
    expected = torch.cat(alone).float()
    return f"{float((found.float() - expected).abs().max() / expected.abs().max()):.1e}"
