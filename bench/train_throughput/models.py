"""`python -m bench.train_throughput.models`: the models' folders. Arguments: where, JSON Lines with texts.

`minilm` is the demo's encoder, `llama` a small Llama of random weights, its tokenizer learnt from the texts.
Beside each stands one of the same weights that drops nothing out, for comparing what trainers compute.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.train_throughput.lesson import STILL
from examples import fetch_minilm

_SPECIAL = ["<pad>", "<s>", "</s>"]
_VOCABULARY = 2048


def main() -> None:
    """Makes all folders."""
    folder, texts = Path(sys.argv[1]), Path(sys.argv[2])
    fetch_minilm.fetch(folder / "minilm")
    _llama(folder / "llama", [json.loads(line)["text"] for line in texts.read_text("utf-8").splitlines()])
    for name in ("minilm", "llama"):
        _without_dropout(folder / name, folder / (name + STILL))


def _llama(folder: Path, texts: list[str]) -> None:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=_SPECIAL,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    # Wide rather than deep: in a real model, too, the matrices cost more than the attention between tokens.
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _without_dropout(model: Path, still: Path) -> None:
    shutil.copytree(model, still)
    config = json.loads((model / "config.json").read_text())
    nothing = {name: 0.0 for name in config if name.endswith(("dropout", "dropout_prob"))}
    (still / "config.json").write_text(json.dumps(config | nothing))


if __name__ == "__main__":
    main()
