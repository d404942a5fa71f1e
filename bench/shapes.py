"""The shapes of the models with random weights."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama without weights."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    def config(self, positions: int) -> dict[str, Any]:
        """The content of config.json.

        Args:
            positions: maximum tokens of a row.
        """
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": positions,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "llama-3-8b": Shape(32, 4096, 14_336, 32, 8, 128_256),
    "llama-3-1b": Shape(16, 2048, 8192, 32, 8, 128_256),
    "tiny": Shape(2, 64, 128, 4, 2, 512),
}
