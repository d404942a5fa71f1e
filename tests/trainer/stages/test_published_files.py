"""The published files of a decoder whose tokenizer has no padding token, as other programs read them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from finetune_trainer.config import Lora, Method, TrainConfig
from finetune_trainer.data.shards import Prepared
from finetune_trainer.models import base_model
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import digest_of_file
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import publish
from tests.trainer.models import bases, test_padding
from tests.trainer.stages import test_publish

Publisher = Callable[[Method], Path]
stage = test_publish.stage
CARRIED = ("merges.txt", "preprocessor_config.json", "generation_config.json")
FREE, RESERVED = "a free row", "a reserved token"
METHODS = pytest.mark.parametrize(
    "method",
    ["Full", Lora(rank=4, alpha=8), Lora(rank=4, alpha=8, merge=True)],
    ids=["full", "adapter", "merged"],
)


@pytest.fixture
def tiny_base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A Llama without padding token: its embedding has free rows, or its tokenizer has reserved tokens."""
    if getattr(request, "param", FREE) == FREE:
        folder = test_padding.base(tmp_path / "base", test_padding.NONE, free=bases.WORDS)
    else:
        reserved = tuple(f"<|reserved_{number}|>" for number in range(50))
        folder = test_padding.base(tmp_path / "base", test_padding.NONE, reserved)
    for name in CARRIED:
        (folder / name).write_text(json.dumps({"of": name}))
    return folder


@pytest.fixture
def published(
    given_run: Callable[..., TrainConfig],
    tiny_base: Path,
    learnable: Prepared,
    stage: test_publish.Stager,
    paths: Paths,
    store: Store,
    tmp_path: Path,
) -> Publisher:
    """Stages and publishes a classifier by a method; gives the published folder."""

    def make(method: Method) -> Path:
        config = stage(given_run(tiny_base, learnable, test_publish.CHOSEN, method))
        publish.run(config, paths, test_publish.HEARTBEAT)
        folder = tmp_path / "published"
        for entry in store.list(config.run.output):
            store.download(entry.uri, folder / entry.uri.removeprefix(config.run.output))
        return folder

    return make


@METHODS
def test_a_reader_of_transformers_4_finds_the_rotary_embedding_and_the_dtype(
    published: Publisher, method: Method
) -> None:
    folder = published(method)
    given, _ = bases.llama()
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"]) == (given["rope_theta"], given["torch_dtype"])
    assert config["rope_parameters"]["rope_theta"] == given["rope_theta"]
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}
    assert config["label2id"] == {"blue": 0, "green": 1, "red": 2}
    for name in CARRIED:
        assert json.loads((folder / name).read_text()) == {"of": name}
    assert "the keys that transformers 4 reads" in (folder / "README.md").read_text()


@METHODS
def test_a_server_finds_the_base_model_of_an_adapter_by_name_and_a_whole_model_by_digest(
    published: Publisher, method: Method, store: Store, bucket: str, tmp_path: Path
) -> None:
    folder = published(method)
    manifest = json.loads((folder / "manifest.json").read_text())
    if isinstance(method, Lora) and not method.merge:
        adapter = json.loads((folder / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == "base"
        assert manifest["lineage"][-1]["uri"] == f"s3://{bucket}/base"
        assert not (folder / "serving").exists()
        return
    service = yaml.safe_load((folder / "serving/inference-service.yaml").read_text())
    digest = base_model.download(store, f"s3://{bucket}/models/tuned/", tmp_path / "base of another job")
    assert service["metadata"]["annotations"] == {"finetune.dev/model-digest": digest}
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"s3://{bucket}/models/tuned/"
    listed = {file["path"]: file["digest"] for file in manifest["files"]}
    # The user guide computes the digest in this way.
    beside = {"README.md", "report.html", "report.json", "finetune-config.json"}
    of_model = {path: told for path, told in listed.items() if "/" not in path and path not in beside}
    assert base_model.digest_of_files(of_model) == digest
    for path, told in listed.items():
        assert digest_of_file(folder / path) == told


@METHODS
@pytest.mark.parametrize(
    ("tiny_base", "text"),
    [(FREE, "<pad>"), (RESERVED, "<|reserved_49|>")],
    ids=[FREE, RESERVED],
    indirect=["tiny_base"],
)
def test_tokenizer_and_config_name_the_same_padding_token(
    published: Publisher, method: Method, text: str
) -> None:
    folder = published(method)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    assert tokenizer.pad_token == text
    assert tokenizer.pad_token_id == config.pad_token_id < config.vocab_size
    if (folder / "model.safetensors").exists():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        texts = test_padding.TEXTS
        with torch.no_grad():
            batch = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
            alone = [model(**tokenizer(one, return_tensors="pt")).logits[0] for one in texts]
        assert torch.allclose(batch, torch.stack(alone), atol=1e-5)
