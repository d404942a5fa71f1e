from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.shards import Prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.collate import lengths
from finetune_trainer.models.verify import LOGITS
from finetune_trainer.paths import MODEL_FOLDER, VERIFICATION, Paths
from finetune_trainer.s3.manifest import MANIFEST, download_folder, read_manifest
from finetune_trainer.s3.store import Store
from finetune_trainer.training import saved_model, staging
from tests.trainer.stages import test_publish
from tests.trainer.training.contexts import context_with

Hand = Callable[..., str]
stage = test_publish.stage


@pytest.fixture
def hand(
    given_run: Callable[..., TrainConfig],
    tiny_base: Path,
    learnable: Prepared,
    stage: test_publish.Stager,
    monkeypatch: pytest.MonkeyPatch,
) -> Hand:
    """Stages the model of a run, again each time; `change` changes the folder of the saved model."""
    given: list[tuple[Any, ...]] = []
    usual = staging.upload

    def watched(*arguments: Any) -> str:
        given.append(arguments)
        return usual(*arguments)

    monkeypatch.setattr(staging, "upload", watched)
    stage(given_run(tiny_base, learnable, test_publish.CHOSEN))

    def again(change: Callable[[Path], None] = lambda _: None) -> str:
        context, outcome, *_ = given[0]
        staging.save_model(context, outcome.model)
        change(context.paths.scratch / "staging" / MODEL_FOLDER)
        return usual(*given[0])

    return again


@pytest.mark.parametrize(
    ("steps", "skipped", "expected"),
    [(7, 8, (7, None)), (8, 8, (None, 8)), (7, 7, (7, 7)), (8, None, (None, None))],
)
def test_the_record_has_only_steps_that_were_made(
    steps: int, skipped: int | None, expected: tuple[int | None, int | None]
) -> None:
    context = context_with(
        config=SimpleNamespace(skipped_step=skipped),
        chosen=SimpleNamespace(epochs=2, batch_size=32),
        prepared=SimpleNamespace(train=range(101)),
    )
    assert staging.facts_of_steps(context, steps) == expected


@pytest.mark.parametrize("most", [1, 2, 5, 40, 41, 64])
def test_rows_of_all_lengths_are_verified_and_the_longest_always(
    hand: Hand, store: Store, learnable: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(saved_model, "VERIFIED_ROWS", most)
    store.download(hand() + VERIFICATION, tmp_path / "verification")
    stored = load_file(tmp_path / "verification")
    there = lengths(learnable.test)
    taken = stored["attention_mask"].sum(1).tolist()
    assert len(taken) == len(stored[LOGITS]) == min(most, len(there))
    assert max(taken) == there.max()
    assert most == 1 or min(taken) == there.min()
    rows = {tuple(learnable.test.row(number).tolist()) for number in range(len(there))}
    padded = stored["input_ids"].tolist()
    found = [tuple(ids[:count]) for ids, count in zip(padded, taken, strict=True)]
    assert set(found) <= rows
    assert len(set(found)) == len(found)


def test_what_an_attempt_before_left_on_the_disk_is_not_handed_over(
    hand: Hand, store: Store, paths: Paths, tmp_path: Path
) -> None:
    left = paths.scratch / "staging" / MODEL_FOLDER / "pytorch_model.bin"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"of another model")
    uri = hand()
    manifest = download_folder(store, uri, tmp_path / "staged")
    assert not any("pytorch_model" in file.path for file in manifest.files)
    assert {entry.uri for entry in store.list(uri)} == {
        f"{uri}{path}" for path in (MANIFEST, *(file.path for file in manifest.files))
    }


@pytest.mark.parametrize("name", ["classifier.weight", "encoder.layer.1.output.dense.weight"])
def test_a_saved_model_with_other_weights_than_those_that_were_measured_is_not_handed_over(
    hand: Hand, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def change(folder: Path) -> None:
        (file,) = folder.glob("*.safetensors")
        weights = load_file(file)
        (full_name,) = (key for key in weights if key.endswith(name))
        weights[full_name] *= -30
        save_file(weights, file, metadata={"format": "pt"})

    monkeypatch.setenv("POD_UID", "cccccccc-0000")
    before = hand()
    monkeypatch.setenv("POD_UID", "dddddddd-0000")
    with pytest.raises(StageFailure, match="SavedModelDiffers") as caught:
        hand(change)
    assert caught.value.failure is FailureClass.INTERNAL
    folders = {entry.uri.rpartition("staging/")[2].partition("/")[0] for entry in store.list(cut(before))}
    assert "1-cccccccc" in folders
    assert "1-dddddddd" not in folders


def test_a_pod_that_is_cut_off_harms_no_folder_but_its_own(
    hand: Hand, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POD_UID", "aaaaaaaa-0000")
    first = hand()
    manifest = read_manifest(store, first)
    assert manifest
    monkeypatch.setenv("POD_UID", "bbbbbbbb-0000")
    upload = store.upload

    def cut_off(path: Path, uri: str, *more: Any) -> Any:
        if uri.endswith(VERIFICATION):
            raise ConnectionError("the pod is gone")
        return upload(path, uri, *more)

    with monkeypatch.context() as broken:
        broken.setattr(store, "upload", cut_off)
        with pytest.raises(ConnectionError):
            hand()
    folders = {entry.uri.rpartition("staging/")[2].partition("/")[0] for entry in store.list(cut(first))}
    assert {"1-aaaaaaaa", "1-bbbbbbbb"} <= folders
    assert read_manifest(store, cut(first) + "1-bbbbbbbb/") is None
    assert download_folder(store, first, tmp_path / "staged") == manifest


def cut(folder: str) -> str:
    """The folder above."""
    return folder.rstrip("/").rpartition("/")[0] + "/"
