"""Tiny base models as they lie in a store: a config of transformers 4, and the shapes of the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
WORDS, HIDDEN, INNER, KEYS, PIXELS = 320, 32, 64, 16, 4


def llama(**more: Any) -> tuple[Config, Shapes]:
    shapes: Shapes = {
        "model.embed_tokens.weight": (WORDS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (WORDS, HIDDEN),
    }
    for layer in range(2):
        shapes |= attention(layer)
        for name, shape in {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}.items():
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = shape
    config: Config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": WORDS,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
    }
    if more.get("tie_word_embeddings"):
        del shapes["lm_head.weight"]
    return {**config, **more}, shapes


def attention(layer: int) -> Shapes:
    at = f"model.layers.{layer}."
    return {
        f"{at}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{at}self_attn.k_proj.weight": (KEYS, HIDDEN),
        f"{at}self_attn.v_proj.weight": (KEYS, HIDDEN),
        f"{at}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        f"{at}input_layernorm.weight": (HIDDEN,),
        f"{at}post_attention_layernorm.weight": (HIDDEN,),
    }


def mixture() -> tuple[Config, Shapes]:
    """A Qwen3 whose 4 experts are files' linear layers and, in transformers 5, one weight."""
    config, shapes = llama(
        model_type="qwen3_moe",
        architectures=["Qwen3MoeForCausalLM"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        decoder_sparse_step=1,
        norm_topk_prob=True,
        mlp_only_layers=[],
        head_dim=8,
        attention_bias=False,
    )
    shapes = {name: shape for name, shape in shapes.items() if ".mlp." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}mlp.gate.weight": (4, HIDDEN)}
        shapes |= {f"{at}self_attn.{kind}_norm.weight": (8,) for kind in "qk"}
        for expert in range(4):
            shapes[f"{at}mlp.experts.{expert}.gate_proj.weight"] = (16, HIDDEN)
            shapes[f"{at}mlp.experts.{expert}.up_proj.weight"] = (16, HIDDEN)
            shapes[f"{at}mlp.experts.{expert}.down_proj.weight"] = (HIDDEN, 16)
    return config, shapes


def bert(words: int = WORDS, **more: Any) -> tuple[Config, Shapes]:
    """An encoder; with `id2label` a classifier of these classes."""
    embeddings = "bert.embeddings."
    shapes: Shapes = {
        f"{embeddings}word_embeddings.weight": (words, HIDDEN),
        f"{embeddings}position_embeddings.weight": (128, HIDDEN),
        f"{embeddings}token_type_embeddings.weight": (2, HIDDEN),
        **norm(f"{embeddings}LayerNorm"),
        "bert.pooler.dense.weight": (HIDDEN, HIDDEN),
        "bert.pooler.dense.bias": (HIDDEN,),
    }
    linear = {
        **{f"attention.self.{name}": (HIDDEN, HIDDEN) for name in ("query", "key", "value")},
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        shapes |= norm(f"{at}attention.output.LayerNorm") | norm(f"{at}output.LayerNorm")
    config: Config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": INNER,
        "max_position_embeddings": 128,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
        **more,
    }
    if classes := len(config.get("id2label", {})):
        shapes |= {"classifier.weight": (classes, HIDDEN), "classifier.bias": (classes,)}
    return config, shapes


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def t5() -> tuple[Config, Shapes]:
    """Only what is looked at before its weights are: an encoder-decoder."""
    config: Config = {
        "architectures": ["T5Model"],
        "model_type": "t5",
        "vocab_size": WORDS,
        "d_model": HIDDEN,
        "d_kv": 8,
        "d_ff": INNER,
        "num_layers": 2,
        "num_heads": 4,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 3,
        "decoder_start_token_id": 0,
    }
    shapes: Shapes = {"shared.weight": (WORDS, HIDDEN)}
    for side, parts in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        shapes[f"{side}.final_layer_norm.weight"] = (HIDDEN,)
        for block in range(2):
            for place, part in enumerate(parts):
                at = f"{side}.block.{block}.layer.{place}."
                shapes |= {f"{at}{part}.{kind}.weight": (HIDDEN, HIDDEN) for kind in "qkvo"}
                shapes[f"{at}layer_norm.weight"] = (HIDDEN,)
                if block == 0 and part == "SelfAttention":
                    shapes[f"{at}{part}.relative_attention_bias.weight"] = (32, 4)
            at = f"{side}.block.{block}.layer.{len(parts)}."
            shapes |= {
                f"{at}DenseReluDense.wi.weight": (INNER, HIDDEN),
                f"{at}DenseReluDense.wo.weight": (HIDDEN, INNER),
                f"{at}layer_norm.weight": (HIDDEN,),
            }
    return config, shapes


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Random ones; norms are 1."""
    random = np.random.default_rng(seed)
    return {
        name: (
            np.ones(shape, np.float32)
            if "norm" in name.lower() and name.endswith("weight")
            else random.normal(0, 0.2, shape).astype(np.float32)
        )
        for name, shape in shapes.items()
    }


def write(folder: Path, config: Config, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def gemma3(layers: int = 2, **text: Any) -> tuple[Config, Shapes]:
    """A model for texts and images: the language model stands in `text_config`, beside a vision model."""
    shapes: Shapes = {
        "language_model.model.embed_tokens.weight": (WORDS, HIDDEN),
        "language_model.model.norm.weight": (HIDDEN,),
        "multi_modal_projector.mm_input_projection_weight": (PIXELS, HIDDEN),
        "multi_modal_projector.mm_soft_emb_norm.weight": (PIXELS,),
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (PIXELS, 3, 14, 14),
        "vision_tower.vision_model.embeddings.patch_embedding.bias": (PIXELS,),
        "vision_tower.vision_model.embeddings.position_embedding.weight": (4, PIXELS),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        linear = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
        of_layer = {
            **attention(layer),
            **{f"{at}self_attn.{kind}_norm.weight": (8,) for kind in "qk"},
            **{f"{at}{side}_feedforward_layernorm.weight": (HIDDEN,) for side in ("pre", "post")},
            **{f"{at}mlp.{name}_proj.weight": shape for name, shape in linear.items()},
        }
        shapes |= {f"language_model.{name}": shape for name, shape in of_layer.items()}
    config: Config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": WORDS,
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "layer_types": ["sliding_attention"] * (layers - 1) + ["full_attention"],
            **text,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": PIXELS,
            "num_hidden_layers": 0,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "mm_tokens_per_image": 4,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
    }
    return config, shapes | {
        f"vision_tower.vision_model.post_layernorm.{kind}": (PIXELS,) for kind in ("weight", "bias")
    }
