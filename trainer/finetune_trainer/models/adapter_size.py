"""PURE: the rank and the alpha of a published LoRA adapter."""

import math
from dataclasses import dataclass

from finetune_trainer.config import Lora


@dataclass(frozen=True)
class AdapterSize:
    """The size of the published matrices of a layer, as adapter_config.json states it.

    All readers multiply the product of the matrices by alpha / rank.
    """

    rank: int
    alpha: float


def find_adapter_size(lora: Lora, rank: int, alpha: int) -> AdapterSize:
    """Returns the size of the published matrices of a layer.

    PiSSA doubles the rank: the published matrices are the trained matrices beside the initial matrices with
    the opposite sign. `scaling: RankStabilized` changes the published alpha, so that readers need not know
    rank-stabilized LoRA.

    Args:
        lora: settings of the job.
        rank: rank of the layer in the job.
        alpha: alpha of the layer in the job.
    """
    published = 2 * rank if lora.initialization == "PiSSA" else rank
    divisor = math.sqrt(rank) if lora.scaling == "RankStabilized" else rank
    scaled = alpha * published / divisor
    return AdapterSize(published, int(scaled) if scaled.is_integer() else scaled)


def find_max_rank(lora: Lora) -> int:
    """Returns the largest rank of the published matrices."""
    ranks = (lora.rank, *(item.rank for item in lora.module_ranks))
    return max(find_adapter_size(lora, rank, 1).rank for rank in ranks)
