"""Makes a small model of the Llama architecture with RANDOM weights: `make_llama.py FOLDER ROWS.jsonl...`.

It knows no language. It stands for a pretrained one where none can be downloaded: the same FineTuneJob
takes the folder of any Llama, Mistral or Qwen model. Its tokenizer is learnt from the rows' texts.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

VOCABULARY = 2048
SEED = 0
CARD = """# A random Llama

{parameters:,} random weights in the Llama architecture, with a byte-level BPE tokenizer of {tokens:,} tokens.
It was never trained: what it writes means nothing. Made by examples/make_llama.py to try fine-tuning
where no pretrained model is at hand. No rights are claimed in it.
"""


def texts(files: Iterable[Path]) -> Iterator[str]:
    """Every text in the rows of JSON Lines files."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            yield from (value for value in json.loads(line).values() if isinstance(value, str))


def make(folder: Path, files: Iterable[Path]) -> int:
    """Writes the model's folder; the same rows give the same bytes. Returns the number of weights."""
    # transformers imports DeepSpeed, which else tells at length that it found no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch  # noqa: PLC0415 - heavy
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415 - heavy
    from transformers.utils import logging  # noqa: PLC0415

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    words.train_from_iterator(
        texts(files),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words.get_vocab_size(),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            # With the usual 0.02 its frozen head could hardly prefer a token, whatever LoRA adds below it.
            initializer_range=0.1,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    parameters = int(model.num_parameters())
    card = CARD.format(parameters=parameters, tokens=words.get_vocab_size())
    (folder / "README.md").write_text(card, encoding="utf-8")
    return parameters


def main() -> None:
    """Makes the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model's files go; made if missing")
    parser.add_argument("rows", type=Path, nargs="+", help="JSON Lines whose texts the tokenizer learns")
    options = parser.parse_args()
    parameters = make(options.folder, options.rows)
    print(f"{parameters:,} random weights in {options.folder}")


if __name__ == "__main__":
    main()
