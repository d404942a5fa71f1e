import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from finetune_trainer.failures import StageFailure
from finetune_trainer.models import model_check, model_folder
from finetune_trainer.s3.store import Store

WANTED = model_check.ModelRequirements(frozenset({"bert"}), "classification head", "an encoder")
SHARDS = {
    "one.safetensors": save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float16)}),
    "two.safetensors": save({"c": np.zeros((7, 1), np.float32), "d": np.zeros((), np.float32)}),
}
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    ).encode(),
    **SHARDS,
}


@pytest.fixture
def folder(store: Store, bucket: str) -> str:
    """A sharded model; beside it lies one whose name begins alike."""
    put(store, f"s3://{bucket}/model/", FILES)
    put(store, f"s3://{bucket}/model-2/", {"modeling.py": b"", "adapter_config.json": b"{}"})
    return f"s3://{bucket}/model/"


def put(store: Store, folder: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        store.write(folder + name, data)


def test_the_weights_of_all_shards_are_known_from_their_headers_alone(
    store: Store, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[tuple[int, int]]] = {}
    read_range = store.read_range

    def watched(uri: str, start: int, length: int) -> bytes:
        asked.setdefault(uri.removeprefix(folder), []).append((start, length))
        return read_range(uri, start, length)

    monkeypatch.setattr(store, "read_range", watched)
    store.write(folder + "unused.safetensors", b"not named by the index")
    found = model_folder.inspect(store, folder, WANTED)
    assert found.weights == {"a": (2, 3), "b": (5,), "c": (7, 1), "d": ()}
    assert found.parameters == 19
    assert found.config == {"model_type": "bert"}
    assert found.dtype == "float32"
    (mixed,) = found.warnings
    assert "14 float32, 5 float16" in mixed
    assert asked == {name: [(0, 8), (8, int.from_bytes(data[:8], "little"))] for name, data in SHARDS.items()}


@pytest.mark.parametrize("damaged", SHARDS)
@pytest.mark.parametrize("left", [0, 7, 8, 60, -1])
def test_a_shard_that_was_cut_off_is_refused_by_its_name(
    store: Store, folder: str, damaged: str, left: int
) -> None:
    store.write(folder + damaged, SHARDS[damaged][:left])
    with pytest.raises(StageFailure, match=f"ModelCorrupt: {folder}{damaged} ") as caught:
        model_folder.inspect(store, folder, WANTED)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"c": "one.safetensors"}, "one.safetensors does not hold 'c', which model.safetensors.index.json"),
        ({"x": "two.safetensors", "y": "two.safetensors"}, "two.safetensors does not hold 'x' and 1 more"),
    ],
)
def test_a_shard_without_a_tensor_that_the_index_puts_there_is_refused(
    store: Store, folder: str, named: dict[str, str], says: str
) -> None:
    index = json.loads(FILES["model.safetensors.index.json"])
    changed = {"weight_map": index["weight_map"] | named}
    store.write(folder + "model.safetensors.index.json", json.dumps(changed).encode())
    with pytest.raises(StageFailure, match=f"ModelCorrupt: {folder}{says}"):
        model_folder.inspect(store, folder, WANTED)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_without_end_is_refused_before_it_is_read(
    store: Store, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "_MAX_JSON_BYTES", 2000)
    model_folder.inspect(store, folder, WANTED)
    store.write(folder + name, FILES[name] + b" " * 2000)
    with pytest.raises(StageFailure, match=f"ObjectTooLarge: {folder}{name} "):
        model_folder.inspect(store, folder, WANTED)


@pytest.mark.parametrize(
    ("name", "refused"),
    [("../config.json", True), ("a/../../b.json", True), ("..", True), ("a..b/c...json", False)],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    store: Store, folder: str, name: str, monkeypatch: pytest.MonkeyPatch, *, refused: bool
) -> None:
    # Not every server takes such a name; those that do list it.
    listed = store.list(folder)
    listed.append(replace(listed[0], uri=folder + name))
    monkeypatch.setattr(store, "list", lambda _prefix: listed)
    if not refused:
        assert model_folder.inspect(store, folder, WANTED).parameters == 19
        return
    with pytest.raises(StageFailure, match="ModelCorrupt") as caught:
        model_folder.inspect(store, folder, WANTED)
    assert repr(name) in caught.value.message


def test_marks_of_empty_folders_are_no_files(
    store: Store, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = replace(store.list(folder)[0], size=0)
    marks = [replace(mark, uri=folder), replace(mark, uri=f"{folder}code.py/")]
    there = store.list(folder)
    monkeypatch.setattr(store, "list", lambda _prefix: [*marks, *there])
    assert model_folder.inspect(store, folder, WANTED).parameters == 19
    monkeypatch.setattr(store, "list", lambda _prefix: marks)
    with pytest.raises(StageFailure, match=r"ModelMissing: .* holds no files"):
        model_folder.inspect(store, folder, WANTED)
