"""PURE: finds the properties because of which servers do not load a LoRA adapter."""

from collections.abc import Iterator

from finetune_trainer.config import Lora
from finetune_trainer.models.adapter_size import find_max_rank

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for `--max-lora-rank`."""


def list_unloadable(lora: Lora) -> Iterator[str]:
    """Yields the properties because of which servers do not load a published adapter as it was trained.

    Sources: vLLM, `vllm/lora/peft_helper.py`, refuses DoRA and modules_to_save, and reads one rank and one
    alpha for all layers; `convert_lora_to_gguf.py` of llama.cpp accepts only matrices, and reads one alpha.

    Args:
        lora: settings of the job.

    Yields:
        The field of the spec, and the reason.
    """
    if lora.weight_decomposition:
        yield "method.lora.weightDecomposition (the servers have no DoRA)"
    if lora.module_ranks:
        yield "method.lora.moduleRanks (the servers read one rank and one alpha for all layers)"
    if lora.train_embeddings:
        yield "method.lora.trainEmbeddings (the servers load no embeddings from an adapter)"
    if (rank := find_max_rank(lora)) > VLLM_RANKS[-1]:
        yield f"method.lora.rank (the adapter has rank {rank:,}, and vLLM loads at most {VLLM_RANKS[-1]})"
