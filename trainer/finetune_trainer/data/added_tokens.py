"""IO: adds tokens to the tokenizer files of a model folder. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import Tokenizer

from finetune_trainer.data.tokenise import corrupt_tokenizer

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True)
class ExtendedTokenizer:
    """A model folder whose tokenizer also has the tokens of the job."""

    folder: Path
    ids: Mapping[str, int]
    """Id of each token of the job."""
    new_ids: range
    """Ids of the tokens that the vocabulary of the base model lacks."""

    @property
    def known(self) -> tuple[str, ...]:
        """The tokens of the job that the vocabulary of the base model already has."""
        return tuple(token for token, number in self.ids.items() if number not in self.new_ids)


def extend_tokenizer(base: Path, tokens: Sequence[str], scratch: Path) -> ExtendedTokenizer:
    """Creates a folder with the files of a model, and adds tokens to the tokenizer in this folder.

    The tokens are special tokens: the tokenizer finds the tokens in every text and never splits them. A token
    of the vocabulary keeps its id, and new tokens have the ids after the vocabulary.

    Args:
        base: folder of the model, which stays unchanged. The new folder has links to the other files.
        tokens: different texts.
        scratch: parent of the new folder.

    Raises:
        StageFailure: TokenizerCorrupt, the ids of the vocabulary have gaps.
    """
    tokenizer = Tokenizer.from_file(str(base / TOKENIZER))
    first = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    # A normalizer must not change the tokens, so the tokens are special tokens here too.
    count = sum(tokenizer.token_to_id(token) is None for token in tokens)
    tokenizer.add_special_tokens(list(tokens))
    ids = {token: int(tokenizer.token_to_id(token)) for token in tokens}
    extended = ExtendedTokenizer(Path(mkdtemp(prefix="base-", dir=scratch)), ids, range(first, first + count))
    if len(tokens) - len(extended.known) != count:
        raise corrupt_tokenizer("its ids have gaps, which tokens of method.lora.addedTokens would fill")
    for path in base.iterdir():
        (extended.folder / path.name).symlink_to(path.absolute())
    for name in (TOKENIZER, CONFIG):
        if (base / name).is_file():
            (extended.folder / name).unlink()
            (extended.folder / name).write_bytes((base / name).read_bytes())
    write_special_tokens(extended.folder, ids)
    return extended


def write_special_tokens(folder: Path, ids: Mapping[str, int]) -> None:
    """Writes special tokens to tokenizer.json, and to tokenizer_config.json if this file lists added tokens.

    Args:
        folder: folder with the tokenizer files, which the function modifies.
        ids: id of each token. Files that already contain a token as an added token keep their entry.
    """
    document = json.loads((folder / TOKENIZER).read_bytes())
    listed = document.get("added_tokens") or []
    present = {entry["content"] for entry in listed}
    more = [
        {"id": number, "content": text, **_FLAGS}
        for text, number in sorted(ids.items(), key=lambda item: item[1])
        if text not in present
    ]
    document["added_tokens"] = [*listed, *more]
    (folder / TOKENIZER).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    config = folder / CONFIG
    settings = json.loads(config.read_bytes()) if config.is_file() else {}
    if isinstance(decoder := settings.get("added_tokens_decoder"), dict):
        for entry in more:
            number = str(entry["id"])
            decoder[number] = {key: value for key, value in entry.items() if key != "id"}
        config.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
