"""`python -m bench.checkpoint.model FOLDER PARAMETERS`: a Llama of random float32 weights, and a tokenizer.

A model of 300 million parameters has 18 layers and a hidden size of 1,088.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from bench.checkpoint.rows import SPECIAL, WORDS

_HEAD = 64
_LAYERS = 18
_ENTRIES_PER_HIDDEN = 32
"""Entries of the vocabulary for each element of the hidden size."""


def config_of(parameters: int) -> LlamaConfig:
    """The shape with about so many parameters; the number of layers is constant.

    Args:
        parameters: number of parameters.
    """
    # A layer has 4 h^2 (attention) + 3 x 2.75 h^2 (feed-forward) parameters, the embeddings 32 h^2.
    heads = max(1, round(math.sqrt(parameters / (_LAYERS * 12.25 + _ENTRIES_PER_HIDDEN)) / _HEAD))
    hidden = heads * _HEAD
    shape: Any = LlamaConfig
    return shape(  # type: ignore[no-any-return]
        vocab_size=_ENTRIES_PER_HIDDEN * hidden,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=_LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=SPECIAL.index("<pad>"),
        tie_word_embeddings=False,
    )


def main() -> None:
    """Writes model and tokenizer."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    LlamaModel(config_of(int(sys.argv[2]))).save_pretrained(folder, max_shard_size="100GB")
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of texts
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    fast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


if __name__ == "__main__":
    main()
