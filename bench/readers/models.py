"""The tuned models, written by the code of Train and Publish that writes the files of a published folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as vocabularies

from finetune_trainer.config import Lora, Method
from finetune_trainer.models import lora, methods, saved_files
from finetune_trainer.tasks.text_classification.classifier import load_classifier
from finetune_trainer.tasks.text_generation.language_model import load_language_model

TEXTS = (
    "What goes with salt?",
    "The colour of the sea is blue, of the grass green.",
    "Bread and butter: red, é and <|x|> </s>",
    "a",
)
LABELS = ("blue", "green", "red")
BASE_NAME = "the-base"
_SPECIAL = ("<s>", "</s>", "<pad>", "<|x|>")
_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_GROUPED: dict[str, Any] = {
    **_SMALL,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Case:
    """A tuned model."""

    name: str
    config: Callable[[int], Any]
    """Makes the config for a size of the vocabulary."""
    classifier: bool = False
    method: Method = "Full"
    dtype: torch.dtype = torch.float32
    pad: bool = True
    """Whether the tokenizer of the base model has a padding token."""

    @property
    def adapter(self) -> bool:
        """Whether the published files need the base model."""
        return isinstance(self.method, Lora) and not self.method.merge


@dataclass(frozen=True)
class Published:
    """The folders of a case, and what the product computes."""

    folder: Path
    base: Path
    logits: dict[str, torch.Tensor]
    """Float32 logits by text: shape [classes] or [tokens, vocabulary]."""
    ids: dict[str, list[int]]


def _llama(words: int) -> Any:
    return transformers.LlamaConfig(vocab_size=words, rope_parameters=_LLAMA3, **_GROUPED)


def _qwen(words: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return transformers.Qwen3Config(vocab_size=words, rope_parameters=rope, **_GROUPED)


def _gemma(words: int) -> Any:
    layers = ["sliding_attention", "full_attention"]
    return transformers.Gemma3TextConfig(vocab_size=words, layer_types=layers, sliding_window=8, **_GROUPED)


def _phi(words: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 0.5}
    return transformers.Phi3Config(vocab_size=words, rope_parameters=rope, pad_token_id=2, **_GROUPED)


def _neox(words: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.25}
    more: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, **_SMALL}
    return transformers.GPTNeoXConfig(vocab_size=words, rope_parameters=rope, **more)


def _bert(words: int) -> Any:
    return transformers.BertConfig(vocab_size=words, pad_token_id=2, **_SMALL)


def _roberta(words: int) -> Any:
    return transformers.RobertaConfig(vocab_size=words, pad_token_id=2, **_SMALL)


def _modernbert(words: int) -> Any:
    ids = {"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1, "cls_token_id": 0, "sep_token_id": 1}
    more: dict[str, Any] = {**ids, "global_attn_every_n_layers": 2, "local_attention": 8, **_SMALL}
    return transformers.ModernBertConfig(vocab_size=words, **more)


_ADAPTER, _MERGED = Lora(rank=4, alpha=8), Lora(rank=4, alpha=8, merge=True)
CASES = (
    Case("Llama 3, Full", _llama),
    Case("Llama 3, Full, bfloat16", _llama, dtype=torch.bfloat16),
    Case("Llama 3, adapter", _llama, method=_ADAPTER),
    Case("Llama 3, merged", _llama, method=_MERGED),
    Case("Qwen3, Full", _qwen),
    Case("Gemma 3, Full", _gemma),
    Case("Phi-3, Full", _phi),
    Case("GPT-NeoX, Full", _neox),
    Case("BERT, classifier", _bert, classifier=True),
    Case("RoBERTa, classifier", _roberta, classifier=True),
    Case("ModernBERT, classifier", _modernbert, classifier=True),
    Case("Llama 3, classifier", _llama, classifier=True, pad=False),
    Case("BERT, adapter of a classifier", _bert, classifier=True, method=_ADAPTER),
    Case("BERT, merged classifier", _bert, classifier=True, method=_MERGED),
)


def publish(case: Case, home: Path) -> Published:
    """Makes a base model with random weights and a tuned model.

    Args:
        case: the model.
        home: folder to write to.
    """
    torch.manual_seed(1)
    base = _make_base(case, home / "base")
    if case.classifier:
        model: Any = load_classifier(base, LABELS, torch.float32)
        head: tuple[str, ...] = tuple(
            name for name in ("classifier", "score", "pooler") if hasattr(model, name)
        )
    else:
        model, head = load_language_model(base, torch.float32), ()
    tuned: Any = methods.apply_method(case.method, model, head, seed=1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if ".lora_B." in name or (case.method == "Full" and weight.ndim > 1):
                weight.add_(torch.randn_like(weight) * 0.05)
        # Train rounds the weights, and measures the rounded weights in float32.
        for weight in tuned.parameters():
            weight.copy_(weight.to(case.dtype))
    tuned.eval()
    methods.merge_if_requested(case.method, tuned, case.dtype)
    folder = home / "published"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ids = {text: tokenizer(text)["input_ids"] for text in TEXTS}
    with torch.no_grad():
        logits = {text: tuned(input_ids=torch.tensor([row])).logits[0] for text, row in ids.items()}
    written = lora.remove_adapter(tuned) if isinstance(case.method, Lora) and case.method.merge else tuned
    methods.save(written, folder, BASE_NAME, case.dtype)
    saved_files.complete(folder, base, generates=not case.classifier)
    return Published(folder, base, logits, ids)


def _make_base(case: Case, folder: Path) -> Path:
    """Saves a base model as transformers 5 saves it."""
    pieces = _train_tokenizer()
    names = {"bos_token": "<s>", "eos_token": "</s>", "extra_special_tokens": ["<|x|>"]}
    if case.classifier and case.pad:
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
    if case.pad:
        names["pad_token"] = "<pad>"  # noqa: S105 - no password
    made: Any = transformers.PreTrainedTokenizerFast
    tokenizer = made(tokenizer_object=pieces, **names)
    tokenizer.save_pretrained(folder)
    config = case.config(len(tokenizer))
    auto: Any = transformers.AutoModel if case.classifier else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    model.to(case.dtype).save_pretrained(folder)
    return folder


def _train_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer that begins every text with <s>."""
    pieces = Tokenizer(vocabularies.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=list(_SPECIAL), initial_alphabet=alphabet)
    )
    first = [("<s>", pieces.token_to_id("<s>"))]
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=first
    )
    return pieces
