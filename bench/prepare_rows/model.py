"""`python -m bench.prepare_rows.model FOLDER TEXTS`: a BERT of random weights with its own vocabulary.

The tokenizer decides the time of Prepare, the weights do not.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizer

_VOCABULARY = 8192


def main() -> None:
    """Makes the folder."""
    folder, texts = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    words = BertWordPieceTokenizer()
    words.train_from_iterator(
        [json.loads(line)["text"] for line in texts.read_text("utf-8").splitlines()],
        vocab_size=_VOCABULARY,
        show_progress=False,
    )
    words.save_model(str(folder))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
