from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.contract import FailureClass
from finetune_trainer.data.shards import Prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.collate import pad_batch
from finetune_trainer.models.verify import LOGITS, TOLERANCE, verify
from finetune_trainer.paths import MODEL_FOLDER, VERIFICATION, Paths
from finetune_trainer.tasks.text_classification import model as task
from finetune_trainer.tasks.text_classification.classifier import load_classifier

CONFIG: Any = SimpleNamespace(run=SimpleNamespace(task="TextClassification", method="Full"))


def staged(tiny_base: Path, learnable: Prepared, folder: Path, scale: float = 1.0) -> Path:
    """What Train stages of a model whose logits are so many times as large."""
    torch.manual_seed(5)
    model = load_classifier(tiny_base, learnable.labels, torch.float32).eval()
    with torch.no_grad():
        model.classifier.weight *= scale
        inputs = pad_batch(learnable.test, [0, 1, 2], 0)
        logits = task.logits(model, inputs)
    model.save_pretrained(folder / MODEL_FOLDER)
    save_file({**inputs, LOGITS: logits.contiguous()}, folder / VERIFICATION)
    return folder


def check(folder: Path) -> tuple[Path, float]:
    return verify(CONFIG, task, Paths(folder / "root"), folder, "float32")


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_a_difference_is_measured_against_the_largest_logit_or_against_1(
    tiny_base: Path, learnable: Prepared, tmp_path: Path, scale: float
) -> None:
    folder = staged(tiny_base, learnable, tmp_path, scale)
    assert check(folder) == (folder / MODEL_FOLDER, 0.0)
    stored = load_file(folder / VERIFICATION)
    largest = stored[LOGITS].abs().max().item()
    assert (largest > 10) == (scale > 1)
    right = stored[LOGITS].clone()
    for share, allowed in ((0.5, True), (2.0, False)):
        off = share * TOLERANCE * max(1.0, largest)
        stored[LOGITS] = right.clone()
        smallest = int(right.abs().argmin())
        stored[LOGITS].view(-1)[smallest] -= off
        save_file(stored, folder / VERIFICATION)
        if allowed:
            assert check(folder)[1] == pytest.approx(off, rel=0.1)
            continue
        with pytest.raises(StageFailure, match="VerificationFailed") as caught:
            check(folder)
        assert f"{off:.2e}"[:3] in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_no_small_difference(
    tiny_base: Path, learnable: Prepared, tmp_path: Path, value: float
) -> None:
    folder = staged(tiny_base, learnable, tmp_path)
    stored = load_file(folder / VERIFICATION)
    stored[LOGITS][0, 0] = value
    save_file(stored, folder / VERIFICATION)
    with pytest.raises(StageFailure, match="VerificationFailed") as caught:
        check(folder)
    assert caught.value.failure is FailureClass.INTERNAL


@pytest.mark.parametrize("fault", ["cut off", "no logits", "no inputs", "no safetensors"])
def test_what_cannot_be_compared_is_not_published(
    tiny_base: Path, learnable: Prepared, tmp_path: Path, fault: str
) -> None:
    folder = staged(tiny_base, learnable, tmp_path)
    file = folder / VERIFICATION
    match fault:
        case "cut off":
            file.write_bytes(file.read_bytes()[:-4])
        case "no safetensors":
            file.write_bytes(b"{}")
        case _:
            gone = LOGITS if fault == "no logits" else "attention_mask"
            save_file({name: value for name, value in load_file(file).items() if name != gone}, file)
    with pytest.raises(StageFailure, match="VerificationUnreadable") as caught:
        check(folder)
    assert caught.value.failure is FailureClass.INTERNAL
    assert VERIFICATION in caught.value.message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("weight missing", "ModelIncomplete"),
        ("weight left over", "ModelIncomplete"),
        ("other shape", "ModelDoesNotLoad"),
        ("cut off", "ModelDoesNotLoad"),
        ("no config", "ModelDoesNotLoad"),
    ],
)
def test_files_that_do_not_make_exactly_this_model_are_refused(
    tiny_base: Path, learnable: Prepared, tmp_path: Path, fault: str, reason: str
) -> None:
    folder = staged(tiny_base, learnable, tmp_path)
    file = folder / MODEL_FOLDER / "model.safetensors"
    kept = load_file(file)
    match fault:
        case "weight missing":
            del kept["bert.encoder.layer.1.output.dense.bias"]
        case "weight left over":
            kept["other.weight"] = torch.zeros(2)
        case "other shape":
            kept["classifier.bias"] = torch.zeros(4)
        case "no config":
            (folder / MODEL_FOLDER / "config.json").unlink()
    save_file(kept, file, metadata={"format": "pt"})
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StageFailure, match=reason) as caught:
        check(folder)
    assert caught.value.failure is FailureClass.INTERNAL
