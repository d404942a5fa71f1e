"""The files in `serving/`: what KServe's schemas say of them, what a shell makes of them, and their words."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from finetune_trainer.config import Lora, Method, ModelSource
from finetune_trainer.contract import WeightsDtype
from finetune_trainer.report import model_card, serving
from finetune_trainer.report.page import Sources
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.serving import ServedModel
from finetune_trainer.tasks.registry import report_of

SCHEMAS = json.loads((Path(__file__).parent / "kserve/schemas.json").read_text())
MODEL = ServedModel("sha256:" + "a" * 64, "sha256:" + "b" * 64, 3 * 1024**3, ("</s>", '<|"end"|>'))
ADAPTER = Lora(rank=20, alpha=8)
HOSTILE = """s3://models/"a"'$(id)`id`{{x}}${HOME}/b'c;$(id):"""
Make = Callable[..., dict[str, str]]


@pytest.fixture
def sources(
    record_of: Callable[..., TrainingRecord], generator: TrainingRecord, sources_of: Callable[..., Sources]
) -> Callable[..., Sources]:
    """The run of a generator, or of a classifier."""

    def make(
        method: Method = "Full", *, base: str = "s3://models/minilm", classifier: bool = False
    ) -> Sources:
        of = sources_of(record_of(["a", "b"]) if classifier else generator)
        run = of.config.run.model_copy(update={"method": method, "model": ModelSource(uri=base)})
        return dataclasses.replace(of, config=of.config.model_copy(update={"run": run}))

    return make


@pytest.fixture
def files(sources: Callable[..., Sources]) -> Make:
    """Renders the files of a run."""

    def make(*given: Any, dtype: WeightsDtype = "bfloat16", **more: Any) -> dict[str, str]:
        of = sources(*given, **more)
        chosen = of.chosen.model_copy(update={"model_dtype": dtype})
        return dict(serving.render(of.config, chosen, MODEL, report_of(of.config.run.task)))

    return make


def checked(text: str) -> Any:
    """The object, of which KServe knows every field."""
    document = yaml.safe_load(text)
    jsonschema.validate(document, SCHEMAS[document["kind"]])
    return document


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"method": "Full"}, ["Modelfile", "llm-inference-service.yaml", "vllm.sh"]),
        (
            {"method": Lora(rank=700, alpha=8, merge=True)},
            ["Modelfile", "llm-inference-service.yaml", "vllm.sh"],
        ),
        ({"method": ADAPTER}, ["llm-inference-service.yaml", "vllm.sh"]),
        ({"method": Lora(rank=513, alpha=8)}, []),
        ({"method": Lora(weight_decomposition=True)}, []),
        (
            {"method": Lora(weight_decomposition=True, merge=True)},
            ["Modelfile", "llm-inference-service.yaml", "vllm.sh"],
        ),
        ({"method": "Full", "classifier": True}, ["inference-service.yaml"]),
        ({"method": ADAPTER, "classifier": True}, []),
    ],
    ids=[
        "generator",
        "merged",
        "adapter",
        "rank above all of vLLM",
        "DoRA",
        "merged DoRA",
        "classifier",
        "adapter with a head",
    ],
)
def test_each_model_has_the_files_of_the_servers_that_load_it_and_the_card_names_them(
    files: Make, sources: Callable[..., Sources], given: dict[str, Any], names: list[str]
) -> None:
    assert sorted(files(**given)) == names
    of = sources(**given)
    card = model_card.render(of.config, of.chosen, of.staged, of.record, report_of(of.config.run.task))
    assert [name for name in serving.TITLES if f"`serving/{name}`" in card] == [
        name for name in serving.TITLES if name in names
    ]
    assert ("There are no files for servers" in card) == (not names)
    unloadable = not names and not given.get("classifier")
    assert ("do not load this adapter: method.lora." in card) == unloadable


def test_an_inference_service_serves_a_classifier(files: Make) -> None:
    service = checked(files(classifier=True, dtype="float32")["inference-service.yaml"])
    model = service["spec"]["predictor"]["model"]
    assert service["metadata"]["name"] == "tickets-v1"
    assert service["metadata"]["annotations"] == {"finetune.dev/model-digest": MODEL.digest}
    assert model["storageUri"] == "s3://models/support/tickets-v1/v1/"
    assert "--dtype=float32" in model["args"]
    assert model["resources"]["limits"]["memory"] == "8Gi"


def test_an_llm_inference_service_serves_a_whole_model(files: Make) -> None:
    service = checked(files()["llm-inference-service.yaml"])
    assert service["metadata"]["annotations"] == {"finetune.dev/model-digest": MODEL.digest}
    assert service["spec"]["model"] == {"uri": "s3://models/support/tickets-v1/v1/", "name": "tickets-v1"}
    (container,) = service["spec"]["template"]["containers"]
    assert container["env"] == [{"name": "VLLM_ADDITIONAL_ARGS", "value": "--dtype=bfloat16"}]


def test_an_llm_inference_service_serves_an_adapter_with_its_base_model(files: Make) -> None:
    service = checked(files(ADAPTER)["llm-inference-service.yaml"])
    assert service["metadata"]["annotations"] == {
        "finetune.dev/model-digest": MODEL.digest,
        "finetune.dev/base-model-digest": MODEL.base_digest,
    }
    assert service["spec"]["model"] == {
        "uri": "s3://models/minilm",
        "name": "minilm",
        "lora": {
            "maxRank": 32,
            "adapters": [{"name": "tickets-v1", "uri": "s3://models/support/tickets-v1/v1/"}],
        },
    }


def test_a_server_is_told_the_rank_of_the_published_matrices(files: Make) -> None:
    pissa = ADAPTER.model_copy(update={"initialization": "PiSSA"})
    service = checked(files(pissa)["llm-inference-service.yaml"])
    assert service["spec"]["model"]["lora"]["maxRank"] == 64
    assert "--max-lora-rank 64" in files(pissa)["vllm.sh"]


def test_a_misspelt_field_does_not_pass_the_schemas(files: Make) -> None:
    for given in ({}, {"classifier": True}):
        for text in files(**given).values():
            if "kind:" in text:
                for wrong in (text.replace("uri: ", "url: "), text.replace("storageUri", "storageURI")):
                    if wrong != text:
                        with pytest.raises(jsonschema.ValidationError):
                            checked(wrong)


def called(script: str, tmp_path: Path, *arguments: str) -> list[str]:
    """The arguments that the script gives to vLLM."""
    (tmp_path / "bin").mkdir()
    vllm = tmp_path / "bin/vllm"
    vllm.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    vllm.chmod(0o755)
    folder = tmp_path / "a published folder"
    (folder / "serving").mkdir(parents=True)
    (folder / "serving/vllm.sh").write_text(script)
    ended = subprocess.run(
        ["sh", str(folder / "serving/vllm.sh"), *arguments],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.replace(str(folder), "FOLDER").splitlines()


def test_the_command_serves_the_folder(files: Make, tmp_path: Path) -> None:
    assert called(files()["vllm.sh"], tmp_path, "--port", "80") == [
        *("serve", "FOLDER", "--served-model-name", "tickets-v1", "--dtype", "bfloat16", "--port", "80")
    ]


def test_the_command_serves_an_adapter_on_a_base_model(files: Make, tmp_path: Path) -> None:
    script = files(ADAPTER.model_copy(update={"served_base_name": "org/minilm"}))["vllm.sh"]
    assert MODEL.base_digest in script
    assert called(script, tmp_path, "the base", "--port", "80") == [
        *("serve", "the base", "--served-model-name", "org/minilm", "--dtype", "bfloat16", "--enable-lora"),
        *("--max-lora-rank", "32", "--lora-modules", "tickets-v1=FOLDER", "--port", "80"),
    ]


def test_an_adapter_of_a_float32_model_is_served_in_a_type_that_vllm_has_for_adapters(files: Make) -> None:
    assert "--dtype bfloat16" in files(ADAPTER, dtype="float32")["vllm.sh"]
    assert "--dtype float32" in files(dtype="float32")["vllm.sh"]


def test_the_modelfile_names_the_folder_and_the_words_that_end_a_text(files: Make) -> None:
    lines = files()["Modelfile"].splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "FROM ..",
        'PARAMETER stop "</s>"',
        r'PARAMETER stop "<|\"end\"|>"',
    ]
    assert f"# Digest of the model: {MODEL.digest}" in lines


def test_a_hostile_address_is_text_in_yaml_and_in_a_shell(files: Make, tmp_path: Path) -> None:
    made = files(ADAPTER, base=HOSTILE)
    model = checked(made["llm-inference-service.yaml"])["spec"]["model"]
    assert (model["uri"], model["name"]) == (HOSTILE, "b-c---id--")
    assert called(made["vllm.sh"], tmp_path, "base")[2:4] == ["--served-model-name", "b-c---id--"]
