"""IO: adds tokens to the tokenizer files of a model folder. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
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
    before = tokenizer.get_vocab(with_added_tokens=True)
    tokenizer.add_special_tokens(list(tokens))
    after = tokenizer.get_vocab(with_added_tokens=True)
    first = max(before.values(), default=-1) + 1
    new_ids = range(first, first + len(after) - len(before))
    if {after[token] for token in tokens if token not in before} != set(new_ids):
        raise corrupt_tokenizer("its ids have gaps, so that new tokens do not follow the vocabulary")
    folder = Path(mkdtemp(prefix="base-", dir=scratch))
    for path in base.iterdir():
        if path.name in (TOKENIZER, CONFIG):
            copyfile(path, folder / path.name)
        else:
            (folder / path.name).symlink_to(path.absolute())
    ids = {token: after[token] for token in tokens}
    write_special_tokens(folder, ids)
    return ExtendedTokenizer(folder, ids, new_ids)


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
