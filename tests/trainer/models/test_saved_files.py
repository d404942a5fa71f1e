"""The files beside the weights of a saved model: copied, complete, and of one mind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from finetune_trainer.models import saved_files
from finetune_trainer.models.base_model import COPIED_FILES, PROCESSOR_FILES

VOCABULARY = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", *PROCESSOR_FILES)


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    """A language model with files that only other programs read."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama, folder)
    for name in VOCABULARY:
        (folder / name).write_text(json.dumps({"of": name}))
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    return folder


def saved(base: Path) -> Path:
    """A model saved from the base: config.json alone."""
    folder = base.parent / "saved"
    folder.mkdir()
    shutil.copyfile(base / "config.json", folder / "config.json")
    return folder


def written(base: Path, generation: dict[str, Any] | None) -> dict[str, Any]:
    (base / "generation_config.json").unlink()
    if generation is not None:
        (base / "generation_config.json").write_text(json.dumps(generation))
    folder = saved(base)
    saved_files.complete(folder, base, generates=True)
    GenerationConfig.from_pretrained(folder)
    found: dict[str, Any] = json.loads((folder / "generation_config.json").read_bytes())
    return found


def test_all_files_of_vocabulary_and_processor_are_copied_and_no_other_file(base: Path) -> None:
    folder = saved(base)
    saved_files.complete(folder, base, generates=False)
    assert {path.name for path in folder.iterdir()} == {"config.json", *COPIED_FILES} & {
        path.name for path in base.iterdir()
    }
    for name in VOCABULARY:
        assert (folder / name).read_bytes() == (base / name).read_bytes()


def test_the_tokenizer_reads_as_in_the_base_model(base: Path, tiny_llama: Path) -> None:
    folder = saved(base)
    saved_files.complete(folder, base, generates=True)
    text = "What goes with red? é <|user|>"
    ids = [AutoTokenizer.from_pretrained(place)(text)["input_ids"] for place in (tiny_llama, base, folder)]
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.parametrize(
    ("generation", "ends"),
    [
        (None, 1),
        ({"eos_token_id": 5}, [1, 5]),
        ({"eos_token_id": [1, 5]}, [1, 5]),
        ({"temperature": 0.6, "do_sample": True}, 1),
    ],
    ids=["no file", "lacks the EOS token", "several", "no EOS token"],
)
def test_generation_config_lists_every_token_that_ends_a_text(
    base: Path, generation: dict[str, Any] | None, ends: int | list[int]
) -> None:
    found = written(base, generation)
    assert found["eos_token_id"] == ends
    assert (found["bos_token_id"], found["pad_token_id"]) == (0, 2)


def test_other_values_of_generation_config_stay(base: Path) -> None:
    found = written(base, {"temperature": 0.6, "do_sample": True})
    assert (found["temperature"], found["do_sample"]) == (0.6, True)


def test_a_classifier_gets_no_generation_config_of_its_own(base: Path) -> None:
    (base / "generation_config.json").unlink()
    folder = saved(base)
    saved_files.complete(folder, base, generates=False)
    assert not (folder / "generation_config.json").exists()
