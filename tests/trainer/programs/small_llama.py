"""Makes a random Llama with large weights compared with its norms. Arguments: the folder, the data type."""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Writes config.json and model.safetensors."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(getattr(torch, sys.argv[2])).save_pretrained(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
