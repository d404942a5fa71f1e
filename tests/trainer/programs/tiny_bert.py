"""Makes a tiny random BERT with a word-level tokenizer. Argument: the folder."""

import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = 50

torch.manual_seed(0)
config = BertConfig(
    vocab_size=WORDS,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    # Loss and gradient must not depend on how rows are split: no dropout.
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
BertModel(config).save_pretrained(sys.argv[1])
vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number for number in range(2, WORDS)}}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(  # noqa: S106
    sys.argv[1]
)
