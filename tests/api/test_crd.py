"""The CustomResourceDefinition on a real API server: each rule and bound with what it takes and refuses."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries
from finetune_operator.api import crd
from tests.api.kube import Kube, RefusedError
from tests.operator.api.test_endpoint import REFUSED as REFUSED_ENDPOINTS

pytestmark = pytest.mark.api
STORAGE = {"endpoint": "https://minio.storage:9000", "secretRef": {"name": "s3"}}
SPEC: dict[str, Any] = {
    "task": "TextClassification",
    "model": {"uri": "s3://models/minilm"},
    "dataset": {"train": {"uri": "s3://data/tickets/train.jsonl"}},
    "output": {"uri": "s3://tuned/support/"},
    "storage": STORAGE,
}


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def job(changes: dict[str, Any], namespace: str = "default", name: str = "j") -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    for path, value in changes.items():
        *parents, last = path.split(".")
        here = spec
        for parent in parents:
            here = here.setdefault(parent, {})
        if value is ABSENT:
            del here[last]
        else:
            here[last] = value
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def try_out(kube: Kube, changes: dict[str, Any]) -> Any:
    return kube.call(
        "POST",
        "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All&fieldValidation=Strict",
        job(changes),
    )


GOOD: list[dict[str, Any]] = [
    {},
    {"task": "TextClassification"},
    {"model.uri": "s3://models/minilm/"},
    {"model.uri": "s3://models/a/b.c_d-e/"},
    {"model.storage": STORAGE},
    {"model": {"fromJob": {"name": "languages-v1"}}},
    {"model": {"fromJob": {"name": "languages-v1"}, "storage": STORAGE}},
    {"dataset.storage": STORAGE, "output.storage": STORAGE, "model.storage": STORAGE, "storage": ABSENT},
    {"dataset.train.uri": "s3://data/t.csv"},
    {"dataset.train.uri": "s3://data/t.jsonl.gz"},
    {"dataset.train.uri": "s3://data/"},
    {"dataset.train": {"uris": ["s3://data/a/", "s3://data/b.parquet"]}},
    {
        f"dataset.{split}": {"uris": [f"s3://{split}/{n:0>47}{end}" for n in range(64)]}
        for split, end in (("train", "/"), ("validation", "/"), ("test", ""))
    },
    {"dataset.validation": {"uris": ["s3://data/val/"]}, "dataset.test": {"uris": ["s3://data/test/"]}},
    {"dataset.test": {"uri": "s3://data/tickets/train.jsonl.gz"}},
    {"dataset.train.uri": "s3://data/train/", "dataset.test": {"uri": "s3://data/train-not/x.csv"}},
    {"dataset.validation": {"split": 0.001}},
    {"dataset.validation": {"split": 0.9}, "dataset.test": {"split": 0.04}},
    {"dataset.test": {"uri": "s3://data/tickets/test.jsonl"}},
    {"dataset.maxBadRowFraction": 0},
    {"dataset.maxBadRowFraction": 0.5},
    {"dataset.columns": {"text": "Body text", "label": "queue"}},
    {"training.epochs": 1},
    {"training.epochs": "Auto"},
    {"training.batchSize": 32, "training.microBatchSize": 8},
    {"training.batchSize": "Auto", "training.microBatchSize": 8},
    {"training.learningRate": 1e-7},
    {"training.learningRate": 0.1},
    {"training.weightDecay": 0, "training.warmupFraction": 0},
    {"training.maxLength": 8},
    {"training.seed": 0},
    {"method": {"type": "LoRA"}},
    {"method": {"type": "LoRA", "lora": {"rank": 1024, "alpha": 1, "dropout": 0.9}}},
    {"method": {"type": "LoRA", "lora": {"targetModules": ["query", "attention.output.dense"]}}},
    {"method": {"type": "LoRA", "lora": {"scaling": "RankStabilized", "initialization": "PiSSA"}}},
    {"method": {"type": "LoRA", "lora": {"weightDecomposition": True, "trainEmbeddings": True}}},
    {
        "task": "TextGeneration",
        "method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": ["<|sql|>", " <a b> "]}},
    },
    {"method": {"type": "LoRA", "lora": {"quantization": "NF4", "initialization": "PiSSA"}}},
    {"method": {"type": "LoRA", "lora": {"excludeModules": ["mlp.gate"]}}},
    {"method": {"type": "LoRA", "lora": {"moduleRanks": [{"modules": ["q", "k"], "rank": 8, "alpha": 1}]}}},
    {"method.type": "LoRA", "output.mergeAdapter": True},
    {"method.type": "LoRA", "output.servedBaseName": "meta-llama/Llama-3.1-8B"},
    {"method.type": "LoRA", "output": {"uri": "s3://tuned/a/", "mergeAdapter": False, "servedBaseName": "a"}},
    {"method": {"type": "FreezeLayers", "freezeLayers": {"trainLast": 2}}},
    {"deepspeed.offload": "Optimizer", "resources.gpusPerNode": 1},
    {"deepspeed": {"offload": "Optimizer", "zeroStage": 1}, "resources.gpusPerNode": 1},
    {"deepspeed": {"offload": "OptimizerAndParameters", "zeroStage": 3}, "resources.gpusPerNode": 1},
    {"deepspeed.zeroStage": 0},
    {"deepspeed.zeroStage": "Auto"},
    {"resources": {"nodes": 1024, "gpusPerNode": 64}},
    {"resources": {"gpusPerNode": 4, "processesPerNode": 4}},
    {"resources": {"gpusPerNode": 0, "processesPerNode": 7}},
    {"resources": {"cpu": 2, "memory": "8Gi", "sharedMemory": "512Mi"}},
    {"resources": {"cpu": "500m"}},
    {"evaluation": {"metrics": ["mcc"], "primaryMetric": "mcc"}},
    {"evaluation.gate": {"minimum": 0.8, "minimumImprovement": 0.05}},
    {"evaluation.gate": {"minimum": 1}},
    {"evaluation": {"primaryMetric": "mcc", "gate": {"minimum": -1}}},
    {"evaluation.gate": {"minimumImprovement": 0}},
    {"evaluation.gate": {"minimumImprovement": 1}},
    {"evaluation.gate": {"minimumImprovement": -0.01}},
    {"task": "TextGeneration"},
    {"task": "TextGeneration", "training.trainOn": "All"},
    {"task": "TextGeneration", "training": {"headInit": "Auto", "classWeights": "None"}},
    {"training": {"headInit": "Random", "classWeights": "SquareRoot"}},
    {"training": {"headInit": "LinearProbe", "classWeights": "Balanced"}},
    {"task": "TextGeneration", "dataset.columns": {"messages": "turns", "prompt": "q", "completion": "a"}},
    {"task": "TextGeneration", "evaluation": {"metrics": ["loss", "tokenAccuracy"]}},
    {"task": "TextGeneration", "evaluation.primaryMetric": "perplexity"},
    {"task": "TextGeneration", "evaluation.gate": {"maximum": 2.5, "minimumImprovement": 3}},
    {
        "task": "TextGeneration",
        "evaluation": {"primaryMetric": "tokenAccuracy", "gate": {"minimum": 0.5, "minimumImprovement": 0.1}},
    },
    {"training.trainOn": "Completion"},
    {"evaluation.metrics": ["mcc", "macroF1"]},
    {"output.suffix": "v2.1-rc_1"},
    {"output.uri": "s3://models/minilm-tuned"},
    {"output.uri": "s3://data/tickets/out"},
    {"storage.endpoint": "http://10.0.0.1:9000"},
    {"storage.endpoint": "https://[fd00::1]:9000"},
    {"storage.endpoint": "https://minio.example/"},
    {"storage.region": "eu-central-1"},
    {"storage": {"store": "minio"}},
    {"storage": {"store": "minio", "secretRef": {"name": "s3"}}},
    {"storage": {"store": "minio"}, "output.storage": STORAGE},
    {"storage": ABSENT},
    {"storage.caBundleRef": {"name": "ca"}},
    {"ttl": {"podsAfterFinished": "0s", "afterFinished": "720h"}},
    {"checkpoints": {"everyMinutes": "Auto", "keep": 1}},
    {"checkpoints": {"everyMinutes": 1440, "keep": 100}},
    {"failurePolicy": {"maxRestarts": 0}},
    {"failurePolicy": {"shrinkAfter": "90s"}},
    {"resources": {"nodes": 4, "minNodes": 4}},
    {"resources": {"nodes": 4, "minNodes": 1}},
    {"failurePolicy": {"inPlaceRestarts": 0}},
    {"failurePolicy": {"inPlaceRestarts": 20}},
    {"failurePolicy": {"maxRestarts": 20, "onDivergence": "RollBack"}},
    {"failurePolicy": {"hangTimeout": "1m", "activeDeadline": "60s", "maxGpuHours": 1}},
    {"failurePolicy": {"hangTimeout": "24h"}},
    {"failurePolicy": {"activeDeadline": "8760h", "maxGpuHours": 1000000}},
    {"suspend": True},
]


@pytest.mark.parametrize("changes", GOOD, ids=lambda changes: str(changes)[:80])
def test_accepts(kube: Kube, changes: dict[str, Any]) -> None:
    try_out(kube, changes)


BAD: list[tuple[dict[str, Any], str]] = [
    # left out
    ({"task": ABSENT}, "spec.task: Required"),
    ({"model": ABSENT}, "spec.model: Required"),
    ({"model.uri": ABSENT}, "set exactly one of uri and fromJob"),
    ({"model.fromJob": {"name": "languages-v1"}}, "set exactly one of uri and fromJob"),
    ({"model": {"fromJob": {}}}, "spec.model.fromJob.name: Required"),
    ({"model": {"fromJob": {"name": "Languages"}}}, "spec.model.fromJob.name: Invalid value"),
    ({"model": {"fromJob": {"name": "j"}}}, "names the job itself"),
    ({"model.fromJob.namespace": "other"}, 'unknown field "spec.model.fromJob.namespace"'),
    ({"dataset": ABSENT}, "spec.dataset: Required"),
    ({"dataset.train": ABSENT}, "spec.dataset.train: Required"),
    ({"dataset.train.uri": ABSENT}, "set exactly one of uri and uris"),
    ({"output": ABSENT}, "spec.output: Required"),
    ({"output.uri": ABSENT}, "spec.output.uri: Required"),
    ({"storage.endpoint": ABSENT}, "set exactly one of store and endpoint"),
    ({"storage.secretRef": ABSENT}, "endpoint is set, but secretRef is not"),
    ({"storage.secretRef.name": ABSENT}, "spec.storage.secretRef.name: Required"),
    # unknown and misspelt
    ({"trainng": {}}, 'unknown field "spec.trainng"'),
    ({"training.learningrate": 1e-4}, 'unknown field "spec.training.learningrate"'),
    ({"training.learning_rate": 1e-4}, 'unknown field "spec.training.learning_rate"'),
    ({"dataset.columns": {"test": "body"}}, 'unknown field "spec.dataset.columns.test"'),
    ({"storage.secretRef.namespace": "kube-system"}, 'unknown field "spec.storage.secretRef.namespace"'),
    ({"method": {"type": "LoRA", "lora": {"r": 8}}}, 'unknown field "spec.method.lora.r"'),
    # wrong types and words
    ({"task": "Textclassification"}, "spec.task: Unsupported value"),
    ({"task": 3}, "spec.task: Invalid value"),
    ({"method.type": "QLora"}, "spec.method.type: Unsupported value"),
    ({"training": []}, "spec.training: Invalid value"),
    ({"training.learningRate": "1e-4"}, "spec.training.learningRate: Invalid value"),
    ({"training.learningRate": "NaN"}, "spec.training.learningRate: Invalid value"),
    ({"training.epochs": "three"}, "must be Auto or a whole number from 1 to 1000"),
    ({"training.epochs": 1.5}, "spec.training.epochs: Invalid value"),
    ({"training.epochs": True}, "spec.training.epochs: Invalid value"),
    ({"training.schedule": "linear"}, "spec.training.schedule: Unsupported value"),
    ({"training.precision": "Float16"}, "spec.training.precision: Unsupported value"),
    ({"suspend": "yes"}, "spec.suspend: Invalid value"),
    ({"evaluation.metrics": "mcc"}, "spec.evaluation.metrics: Invalid value"),
    ({"resources.memory": ["8Gi"]}, "spec.resources.memory: Invalid value"),
    ({"resources.memory": 0}, "must be a quantity above 0"),
    ({"resources.memory": "0Gi"}, "must be a quantity above 0"),
    ({"resources.cpu": -2}, "must be a quantity above 0"),
    # bounds
    ({"training.epochs": 0}, "must be Auto or a whole number from 1 to 1000"),
    ({"training.epochs": 1001}, "must be Auto or a whole number from 1 to 1000"),
    ({"training.epochs": -1}, "must be Auto or a whole number from 1 to 1000"),
    ({"training.batchSize": 0}, "must be Auto or a whole number from 1 to 1048576"),
    ({"training.batchSize": 1048577}, "must be Auto or a whole number from 1 to 1048576"),
    ({"training.microBatchSize": 65537}, "must be Auto or a whole number from 1 to 65536"),
    ({"training.maxLength": 7}, "must be Auto or a whole number from 8 to 131072"),
    ({"training.maxLength": 131073}, "must be Auto or a whole number from 8 to 131072"),
    ({"training.learningRate": 0}, "spec.training.learningRate: Invalid value"),
    ({"training.learningRate": -1e-4}, "spec.training.learningRate: Invalid value"),
    ({"training.learningRate": 0.11}, "spec.training.learningRate: Invalid value"),
    ({"training.learningRate": 1e308}, "spec.training.learningRate: Invalid value"),
    ({"training.weightDecay": 0.51}, "spec.training.weightDecay: Invalid value"),
    ({"training.weightDecay": -0.1}, "spec.training.weightDecay: Invalid value"),
    ({"training.warmupFraction": 0.91}, "spec.training.warmupFraction: Invalid value"),
    ({"training.maxGradientNorm": 0}, "spec.training.maxGradientNorm: Invalid value"),
    ({"training.maxGradientNorm": 1001}, "spec.training.maxGradientNorm: Invalid value"),
    ({"training.seed": -1}, "spec.training.seed: Invalid value"),
    ({"training.seed": 2147483648}, "spec.training.seed: Invalid value"),
    ({"deepspeed.zeroStage": 4}, "must be Auto or a whole number from 0 to 3"),
    ({"deepspeed.zeroStage": -1}, "must be Auto or a whole number from 0 to 3"),
    ({"method": {"type": "LoRA", "lora": {"rank": 0}}}, "spec.method.lora.rank: Invalid value"),
    ({"method": {"type": "LoRA", "lora": {"rank": 1025}}}, "spec.method.lora.rank: Invalid value"),
    ({"method": {"type": "LoRA", "lora": {"alpha": 0}}}, "spec.method.lora.alpha: Invalid value"),
    ({"method": {"type": "LoRA", "lora": {"dropout": 1}}}, "spec.method.lora.dropout: Invalid value"),
    ({"method": {"type": "LoRA", "lora": {"targetModules": []}}}, "spec.method.lora.targetModules"),
    (
        {"method": {"type": "LoRA", "lora": {"targetModules": ["q", "q"]}}},
        "spec.method.lora.targetModules[1]: Duplicate value",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"targetModules": [".*"]}}},
        "spec.method.lora.targetModules[0]: Invalid value",
    ),
    (
        {"method": {"type": "FreezeLayers", "freezeLayers": {"trainLast": 0}}},
        "spec.method.freezeLayers.trainLast: Invalid value",
    ),
    ({"method": {"type": "FreezeLayers", "freezeLayers": {}}}, "trainLast: Required"),
    ({"deepspeed.offload": "NVMe"}, "spec.deepspeed.offload: Unsupported value"),
    # contradictions of the method
    (
        {"method": {"type": "LoRA", "lora": {"scaling": "Auto"}}},
        "spec.method.lora.scaling: Unsupported value",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"initialization": "OLoRA"}}},
        "spec.method.lora.initialization: Unsupported value",
    ),
    ({"method": {"type": "LoRA", "lora": {"excludeModules": []}}}, "spec.method.lora.excludeModules"),
    (
        {"method": {"type": "LoRA", "lora": {"moduleRanks": [{"modules": ["q"]}]}}},
        "spec.method.lora.moduleRanks[0].rank: Required value",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"moduleRanks": [{"modules": ["q", "q"], "rank": 4}]}}},
        "spec.method.lora.moduleRanks[0].modules[1]: Duplicate value",
    ),
    ({"method.lora": {"rank": 8}}, "method.lora is set, but method.type is not LoRA"),
    (
        {"method": {"type": "LoRA", "freezeLayers": {"trainLast": 1}}},
        "method.freezeLayers is set, but method.type is not FreezeLayers",
    ),
    ({"method": {"type": "FreezeLayers"}}, "method.type is FreezeLayers, but method.freezeLayers is not set"),
    (
        {"method": {"type": "LoRA", "lora": {"targetModules": ["AllLinear", "query"]}}},
        "AllLinear in targetModules stands for every linear layer",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"quantization": "NF4", "weightDecomposition": True}}},
        "quantization NF4 does not work with weightDecomposition",
    ),
    (
        {"task": "TextGeneration", "method": {"type": "LoRA", "lora": {"addedTokens": ["<|sql|>"]}}},
        "addedTokens is set, but trainEmbeddings is false",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": ["<|sql|>"]}}},
        "method.lora.addedTokens is for the task TextGeneration",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": ["a", "a"]}}},
        "spec.method.lora.addedTokens[1]: Duplicate value",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": [" \t\n"]}}},
        "spec.method.lora.addedTokens[0]: Invalid value",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": ["a" * 65]}}},
        "spec.method.lora.addedTokens[0]: Too long",
    ),
    (
        {"method": {"type": "LoRA", "lora": {"trainEmbeddings": True, "addedTokens": []}}},
        "spec.method.lora.addedTokens: Invalid value",
    ),
    ({"output.mergeAdapter": True}, "output.mergeAdapter is true, but method.type is not LoRA"),
    ({"output.servedBaseName": "llama"}, "output.servedBaseName is set, but the job publishes a whole model"),
    (
        {"method.type": "LoRA", "output.mergeAdapter": True, "output.servedBaseName": "llama"},
        "output.servedBaseName is set, but the job publishes a whole model",
    ),
    (
        {"method.type": "LoRA", "output.servedBaseName": "a model"},
        "spec.output.servedBaseName: Invalid value",
    ),
    ({"deepspeed.offload": "Optimizer"}, "resources.gpusPerNode is 0"),
    (
        {"deepspeed": {"offload": "Optimizer", "zeroStage": 0}, "resources.gpusPerNode": 1},
        "deepspeed.offload Optimizer needs a deepspeed.zeroStage of 1, 2, 3 or Auto",
    ),
    (
        {"deepspeed": {"offload": "OptimizerAndParameters", "zeroStage": 2}, "resources.gpusPerNode": 1},
        "deepspeed.offload OptimizerAndParameters needs a deepspeed.zeroStage of 3 or Auto",
    ),
    ({"resources.nodes": 0}, "spec.resources.nodes: Invalid value"),
    ({"resources.nodes": 1025}, "spec.resources.nodes: Invalid value"),
    ({"resources.gpusPerNode": -1}, "spec.resources.gpusPerNode: Invalid value"),
    ({"resources.gpusPerNode": 65}, "spec.resources.gpusPerNode: Invalid value"),
    ({"resources.processesPerNode": 0}, "spec.resources.processesPerNode: Invalid value"),
    ({"resources.processesPerNode": 257}, "spec.resources.processesPerNode: Invalid value"),
    ({"resources.memory": "8 GB"}, "spec.resources.memory: Invalid value"),
    ({"resources.memory": "-8Gi"}, "spec.resources.memory: Invalid value"),
    ({"resources.cpu": "1" * 21}, "spec.resources.cpu"),
    ({"resources.profile": "Default"}, "spec.resources.profile: Invalid value"),
    ({"dataset.maxBadRowFraction": 0.51}, "spec.dataset.maxBadRowFraction: Invalid value"),
    ({"dataset.maxBadRowFraction": -0.01}, "spec.dataset.maxBadRowFraction: Invalid value"),
    ({"dataset.columns": {"text": ""}}, "spec.dataset.columns.text"),
    ({"dataset.columns": {"text": "x" * 129}}, "spec.dataset.columns.text: Too long"),
    ({"evaluation.metrics": []}, "spec.evaluation.metrics"),
    ({"evaluation.metrics": ["macroF1", "macroF1"]}, "spec.evaluation.metrics[1]: Duplicate value"),
    ({"evaluation.metrics": ["f1"]}, "spec.evaluation.metrics[0]: Unsupported value"),
    ({"evaluation.metrics": ["mcc"] * 17}, "spec.evaluation.metrics: Too many"),
    ({"evaluation.gate": {}}, "set at least one limit, or remove gate"),
    ({"evaluation.gate": {"minimum": 80}}, "spec.evaluation.gate.minimum: Invalid value"),
    ({"evaluation.gate": {"minimum": "0.8"}}, "spec.evaluation.gate.minimum: Invalid value"),
    ({"evaluation.gate": {"minimum": -1.5}}, "spec.evaluation.gate.minimum: Invalid value"),
    ({"evaluation.gate": {"maximum": -1}}, "spec.evaluation.gate.maximum: Invalid value"),
    ({"evaluation.gate": {"improvement": 0.05}}, 'unknown field "spec.evaluation.gate.improvement"'),
    ({"output.suffix": ""}, "spec.output.suffix"),
    ({"output.suffix": "x" * 65}, "spec.output.suffix: Too long"),
    ({"output.suffix": "a/b"}, "spec.output.suffix: Invalid value"),
    ({"output.suffix": ".."}, "spec.output.suffix: Invalid value"),
    ({"storage.region": "EU"}, "spec.storage.region: Invalid value"),
    ({"storage.secretRef.name": ""}, "spec.storage.secretRef.name"),
    ({"storage.secretRef.name": "a/b"}, "spec.storage.secretRef.name: Invalid value"),
    ({"storage.secretRef.name": "x" * 254}, "spec.storage.secretRef.name: Too long"),
    ({"storage.secretRef.accessKeyKey": "a b"}, "spec.storage.secretRef.accessKeyKey: Invalid value"),
    ({"storage.caBundleRef": {"name": "ca", "key": "../ca"}}, "spec.storage.caBundleRef.key: Invalid value"),
    ({"checkpoints.everyMinutes": 0}, "must be Auto or a whole number from 1 to 1440"),
    ({"checkpoints.everyMinutes": 1441}, "must be Auto or a whole number from 1 to 1440"),
    ({"checkpoints.everyMinutes": "10m"}, "must be Auto or a whole number from 1 to 1440"),
    ({"checkpoints.keep": 0}, "spec.checkpoints.keep: Invalid value"),
    ({"checkpoints.keep": 101}, "spec.checkpoints.keep: Invalid value"),
    ({"failurePolicy.maxRestarts": -1}, "spec.failurePolicy.maxRestarts: Invalid value"),
    ({"failurePolicy.maxRestarts": 21}, "spec.failurePolicy.maxRestarts: Invalid value"),
    ({"failurePolicy.shrinkAfter": "59s"}, "must be from 1m to 24h"),
    ({"failurePolicy.shrinkAfter": "25h"}, "must be from 1m to 24h"),
    ({"failurePolicy.shrinkAfter": "1d"}, "spec.failurePolicy.shrinkAfter: Invalid value"),
    ({"resources": {"nodes": 4, "minNodes": 0}}, "spec.resources.minNodes: Invalid value"),
    (
        {"resources": {"nodes": 2, "minNodes": 3}},
        "resources.minNodes must be at most resources.nodes",
    ),
    ({"resources": {"minNodes": 2}}, "resources.minNodes must be at most resources.nodes"),
    ({"failurePolicy.inPlaceRestarts": 21}, "spec.failurePolicy.inPlaceRestarts: Invalid value"),
    ({"failurePolicy.onDivergence": "Skip"}, "spec.failurePolicy.onDivergence: Unsupported value"),
    ({"failurePolicy.hangTimeout": "59s"}, "must be from 1m to 24h"),
    ({"failurePolicy.hangTimeout": "1441m"}, "must be from 1m to 24h"),
    ({"failurePolicy.hangTimeout": "600"}, "spec.failurePolicy.hangTimeout: Invalid value"),
    ({"failurePolicy.activeDeadline": "59s"}, "must be from 1m to 8760h"),
    ({"failurePolicy.activeDeadline": "8761h"}, "must be from 1m to 8760h"),
    ({"failurePolicy.activeDeadline": "9999999h"}, "spec.failurePolicy.activeDeadline: Invalid value"),
    ({"failurePolicy.activeDeadline": "3d"}, "spec.failurePolicy.activeDeadline: Invalid value"),
    ({"failurePolicy.maxGpuHours": 0}, "spec.failurePolicy.maxGpuHours: Invalid value"),
    ({"failurePolicy.maxGpuHours": 1000001}, "spec.failurePolicy.maxGpuHours: Invalid value"),
    ({"failurePolicy.maxGpuHours": 0.5}, "spec.failurePolicy.maxGpuHours: Invalid value"),
    ({"ttl.podsAfterFinished": "10"}, "spec.ttl.podsAfterFinished: Invalid value"),
    ({"ttl.podsAfterFinished": "10d"}, "spec.ttl.podsAfterFinished: Invalid value"),
    ({"ttl.afterFinished": "-1h"}, "spec.ttl.afterFinished: Invalid value"),
    ({"ttl.afterFinished": "99999999h"}, "spec.ttl.afterFinished"),
    # splits
    ({"dataset.validation": {"split": 0}}, "must be from 0.001 to 0.9"),
    ({"dataset.validation": {"split": 0.0005}}, "spec.dataset.validation.split: Invalid value"),
    ({"dataset.validation": {"split": -1}}, "spec.dataset.validation.split: Invalid value"),
    ({"dataset.validation": {"split": 1}}, "spec.dataset.validation.split: Invalid value"),
    ({"dataset.test": {"split": 0}}, "must be from 0.001 to 0.9"),
    ({"dataset.test": {"split": 1}}, "spec.dataset.test.split: Invalid value"),
    ({"dataset.validation": {}}, "set exactly one of uri, uris and split"),
    ({"dataset.test": {"uri": "s3://data/x.csv", "split": 0.1}}, "set exactly one of uri, uris and split"),
    ({"dataset.test": {"uri": "s3://b/x", "uris": ["s3://b/y"]}}, "set exactly one of uri, uris and split"),
    ({"dataset.train.uris": ["s3://data/x.csv"]}, "set exactly one of uri and uris"),
    ({"dataset.train": {"uris": []}}, "spec.dataset.train.uris"),
    ({"dataset.train": {"uris": ["s3://data/x.csv"] * 2}}, "must not name a file or folder twice"),
    ({"dataset.train": {"uris": [f"s3://data/{n}" for n in range(65)]}}, "spec.dataset.train.uris: Too many"),
    (
        {"dataset.train": {"uris": [f"s3://data/{n:0>1011}" for n in range(5)]}},
        "must have at most 4096 characters together",
    ),
    ({"dataset.train": {"uris": ["x.csv"]}}, "spec.dataset.train.uris[0]: Invalid value"),
    ({"dataset.validation": {"split": 0.5}, "dataset.test": {"split": 0.5}}, "fewer than 5 % of the rows"),
    ({"dataset.validation": {"split": 0.9}}, "fewer than 5 % of the rows"),
    # URIs
    ({"model.uri": "minilm"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3:///minilm"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "https://models/minilm"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://user:secret@models/minilm"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/a@b"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/../secret"}, "must not contain '..'"),
    ({"model.uri": "s3://models/%2e%2e/secret"}, "must not contain '%'"),
    ({"model.uri": "s3://models/a//b"}, "must not contain an empty path segment"),
    ({"model.uri": "s3://models/a?versionId=1"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/a#b"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/a b"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/a\nb"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/a\\b"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://Models/a"}, "spec.model.uri: Invalid value"),
    ({"model.uri": "s3://models/" + "x" * 1024}, "spec.model.uri: Too long"),
    ({"dataset.train.uri": "s3://data"}, "spec.dataset.train.uri: Invalid value"),
    ({"dataset.train": {"uris": ["s3://data/../x.csv"]}}, "must not contain '..'"),
    ({"dataset.train.uri": "s3://data/../x.csv"}, "must not contain '..'"),
    ({"dataset.train.uri": "s3://data/%2e%2e/x.csv"}, "must not contain '%'"),
    ({"dataset.train.uri": "s3://data//x.csv"}, "must not contain an empty path segment"),
    ({"dataset.test": {"uri": "s3://user@data/x.csv"}}, "spec.dataset.test.uri: Invalid value"),
    ({"output.uri": "s3://tuned/../x"}, "must not contain '..'"),
    ({"output.uri": "s3://tuned/%2E%2E/x"}, "must not contain '%'"),
    ({"output.uri": "s3://tuned/a//"}, "must not contain an empty path segment"),
    ({"output.uri": "s3://tuned"}, "spec.output.uri: Invalid value"),
    ({"output.uri": "s3://tuned/" + "x" * 900}, "spec.output.uri: Too long"),
    ({"storage.endpoint": "minio:9000"}, "spec.storage.endpoint: Invalid value"),
    ({"storage.endpoint": "https://key:secret@minio:9000"}, "spec.storage.endpoint: Invalid value"),
    ({"storage.endpoint": "https://minio:9000/bucket"}, "spec.storage.endpoint: Invalid value"),
    ({"storage.endpoint": "ftp://minio"}, "spec.storage.endpoint: Invalid value"),
    ({"storage.endpoint": "https://" + "x" * 300}, "spec.storage.endpoint: Too long"),
    ({"storage.store": "minio"}, "set exactly one of store and endpoint"),
    ({"dataset.storage": {}}, "spec.dataset.storage: Invalid value"),
    ({"storage": {"store": "Minio"}}, "spec.storage.store: Invalid value"),
    ({"storage": {"store": "minio", "region": "eu"}}, "store and region are set"),
    ({"storage": {"store": "minio", "caBundleRef": {"name": "ca"}}}, "store and caBundleRef are set"),
    *(({"storage.endpoint": endpoint}, words) for endpoint, words in REFUSED_ENDPOINTS),
    *(({"output.storage": STORAGE | {"endpoint": e}}, words) for e, words in REFUSED_ENDPOINTS[:2]),
    # contradictions
    (
        {"training.batchSize": 30, "training.microBatchSize": 8},
        "batchSize must be a multiple of microBatchSize",
    ),
    ({"resources": {"gpusPerNode": 4, "processesPerNode": 2}}, "processesPerNode must equal gpusPerNode"),
    (
        {"evaluation": {"metrics": ["mcc"], "primaryMetric": "macroF1"}},
        "evaluation.metrics lacks the primaryMetric",
    ),
    ({"evaluation.metrics": ["mcc"]}, "lacks the primaryMetric, which decides (left out it is macroF1"),
    (
        {"task": "TextGeneration", "evaluation.metrics": ["perplexity"]},
        "loss for TextGeneration): add it, or set primaryMetric",
    ),
    ({"evaluation.metrics": ["macroF1", "loss"]}, "evaluation.metrics names a metric of another task"),
    ({"evaluation.primaryMetric": "perplexity"}, "evaluation.primaryMetric is a metric of another task"),
    (
        {"task": "TextGeneration", "evaluation.primaryMetric": "macroF1"},
        "TextGeneration has loss, perplexity, tokenAccuracy",
    ),
    (
        {"task": "TextGeneration", "evaluation.gate": {"minimum": 0.8}},
        "gate.maximum where lower is better",
    ),
    (
        {"task": "TextGeneration", "evaluation": {"primaryMetric": "tokenAccuracy", "gate": {"maximum": 1}}},
        "use gate.minimum for metrics where higher is better",
    ),
    ({"training.trainOn": "All"}, "training.trainOn is for the task TextGeneration"),
    (
        {"task": "TextGeneration", "training.headInit": "LinearProbe"},
        "training.headInit is for the task TextClassification",
    ),
    (
        {"task": "TextGeneration", "training.classWeights": "Balanced"},
        "training.classWeights is for the task TextClassification",
    ),
    ({"training.headInit": "Zero"}, "training.headInit: Unsupported value"),
    ({"training.classWeights": "Inverse"}, "training.classWeights: Unsupported value"),
    ({"task": "TextGeneration", "training.trainOn": "Prompt"}, "training.trainOn: Unsupported value"),
    ({"evaluation.gate": {"maximum": 0.8}}, "use gate.minimum for metrics where higher is better"),
    ({"evaluation.gate": {"minimumImprovement": 5}}, "gate.minimumImprovement must be at most 1"),
    (
        {"dataset.test": {"uri": "s3://data/tickets/train.jsonl"}},
        "must not be measured on what it was trained",
    ),
    (
        {"dataset.test": {"uris": ["s3://data/x.csv", "s3://data/tickets/"]}},
        "must not be measured on what it was trained",
    ),
    (
        {"dataset.train": {"uris": ["s3://data/all/"]}, "dataset.test": {"uri": "s3://data/all/test.csv"}},
        "must not be measured on what it was trained",
    ),
    (
        {"dataset.validation": {"uri": "s3://data/tickets/train.jsonl"}},
        "must not be chosen on what was trained",
    ),
    (
        {"dataset.validation": {"uri": "s3://data/t.csv"}, "dataset.test": {"uri": "s3://data/t.csv"}},
        "measured on what it was chosen on",
    ),
    ({"output.uri": "s3://models/minilm"}, "output.uri lies in the base model's folder"),
    ({"output.uri": "s3://models/minilm/tuned"}, "output.uri lies in the base model's folder"),
    ({"output.uri": "s3://data/tickets"}, "or is the folder of a file of dataset"),
    ({"output.uri": "s3://data/tickets/"}, "or is the folder of a file of dataset"),
    (
        {"dataset.train.uri": "s3://data/", "output.uri": "s3://data/tuned"},
        "output.uri lies in a folder of dataset",
    ),
    (
        {"dataset.test": {"uris": ["s3://data/test/"]}, "output.uri": "s3://data/test"},
        "output.uri lies in a folder of dataset",
    ),
    (
        {"dataset.test": {"uri": "s3://data/test/t.csv"}, "output.uri": "s3://data/test/"},
        "or is the folder of a file of dataset",
    ),
    (
        {"dataset.validation": {"uri": "s3://data/val/t.csv"}, "output.uri": "s3://data/val/"},
        "or is the folder of a file of dataset",
    ),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=lambda value: str(value)[:80])
def test_refuses_and_names_the_field(kube: Kube, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        try_out(kube, changes)
    assert refused.value.status in {400, 422}
    assert said in refused.value.message
    assert any(is_named(path, refused.value.message) for path in changes)


def is_named(path: str, message: str) -> bool:
    """By its whole path; or as a part of the object of which a rule speaks."""
    parent, _, last = f"spec.{path}".rpartition(".")
    return f"spec.{path}" in message or (f"{parent}:" in message and last in message)


REFUSED: dict[str, dict[str, Any]] = {
    "left out": {"task": ABSENT},
    "misspelt": {"training.lerningRate": 1e-4},
    "wrong type": {"training.learningRate": "1e-4"},
    "out of bounds": {"resources.nodes": 0},
    "a dangerous URI": {"model.uri": "s3://models/%2e%2e/secret"},
    "a contradiction": {"training.batchSize": 30, "training.microBatchSize": 8},
}


@pytest.mark.parametrize("what", REFUSED)
def test_of_what_was_refused_nothing_is_stored_and_its_correction_is_taken(
    kube: Kube, namespace: str, what: str
) -> None:
    wrong = job(REFUSED[what], namespace)
    with pytest.raises(RefusedError):
        kube.create(wrong)
    assert kube.find("FineTuneJob", namespace, "j") is None
    kube.create(job({}, namespace))

    there = kube.get("FineTuneJob", namespace, "j")
    wrong["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs/j"
    with pytest.raises(RefusedError):
        kube.call("PUT", f"{path}?fieldValidation=Strict", wrong)
    assert kube.get("FineTuneJob", namespace, "j") == there
    assert put(kube, job({"training.epochs": 2}, namespace))["metadata"]["generation"] == 2


def test_every_rule_of_the_schema_has_a_bad_example() -> None:
    messages: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            messages.update(rule["message"] for rule in node.get("x-kubernetes-validations", ()))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    tried = " | ".join(said for _, said in BAD)
    untried = {m for m in messages if not any(said in m for _, said in BAD)}
    assert messages
    assert not untried, tried


@pytest.mark.parametrize(
    ("kind", "number", "said"),
    [
        ("yaml", "NaN", "spec.training.learningRate: Invalid value"),  # in YAML these are words
        ("yaml", "Infinity", "spec.training.learningRate: Invalid value"),
        ("yaml", "1e999", "spec.training.learningRate: Invalid value"),
        ("yaml", ".nan", "unsupported value: NaN"),
        ("yaml", "-.inf", "unsupported value: -Inf"),
        ("json", "NaN", "invalid character 'N'"),
        ("json", "Infinity", "invalid character 'I'"),
        ("json", "1e999", "cannot unmarshal number 1e999"),
    ],
)
def test_infinite_and_nan_cannot_be_said(kube: Kube, kind: str, number: str, said: str) -> None:
    body = job({"training.learningRate": 12345.0})
    text = (yaml.safe_dump(body) if kind == "yaml" else json.dumps(body)).replace("12345.0", number)
    path = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All"
    with pytest.raises(RefusedError) as refused:
        kube.call("POST", path, text, f"application/{kind}")
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("name", "said"),
    [("x" * 254, "must be no more than 253"), ("Tickets", "metadata.name"), ("tickets_v1", "metadata.name")],
)
def test_a_name_that_kubernetes_does_not_take_is_refused_and_the_longest_is_taken(
    kube: Kube, name: str, said: str
) -> None:
    path = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All"
    with pytest.raises(RefusedError) as refused:
        kube.call("POST", path, job({}, name=name))
    assert said in refused.value.message
    kube.call("POST", path, job({}, name="x" * 253))


def test_defaults_are_written_down(kube: Kube) -> None:
    spec = try_out(kube, {})["spec"]
    assert spec["dataset"]["validation"] == {"split": 0.1}
    assert spec["training"]["batchSize"] == "Auto"
    assert spec["resources"] == {"profile": "default", "nodes": 1, "gpusPerNode": 0}
    assert spec["evaluation"] == {}  # what it is depends on the task
    assert spec["ttl"] == {"podsAfterFinished": "10m"}
    assert spec["checkpoints"] == {"everyMinutes": "Auto", "keep": 2}
    assert spec["suspend"] is False


def test_a_new_job_says_that_no_operator_has_seen_it(kube: Kube, namespace: str) -> None:
    stored = kube.create(job({}, namespace))
    assert stored["status"] == {"observedGeneration": 0, "conditions": [], "attempts": []}
    assert stored["metadata"]["generation"] == 1


def test_half_filled_objects_get_the_other_half(kube: Kube) -> None:
    asked = {"training": {"epochs": 2}, "method": {"type": "LoRA", "lora": {"rank": 4}}}
    spec = try_out(kube, asked)["spec"]
    assert spec["training"]["batchSize"] == "Auto"
    assert spec["method"]["lora"] == {
        "rank": 4,
        "scaling": "Standard",
        "initialization": "Default",
        "weightDecomposition": False,
        "quantization": "None",
        "dropout": 0.0,
        "targetModules": ["AllLinear"],
        "trainEmbeddings": False,
    }


def test_what_only_some_tasks_and_methods_use_shows_only_what_somebody_wrote(kube: Kube) -> None:
    spec = try_out(kube, {})["spec"]
    assert "columns" not in spec["dataset"]
    assert not {"trainOn", "headInit", "classWeights"} & spec["training"].keys()
    assert spec["method"] == {"type": "Full"}
    assert spec["output"] == {"uri": "s3://tuned/support/"}
    spec = try_out(kube, {"dataset.columns": {"text": "body"}})["spec"]
    assert spec["dataset"]["columns"] == {"text": "body"}


CHANGES: list[dict[str, Any]] = [
    {"model.uri": "s3://models/other"},
    {"model": {"fromJob": {"name": "languages-v1"}}},
    {"dataset.train.uri": "s3://data/other.csv"},
    {"training.epochs": 9},
    {"deepspeed.zeroStage": 3},
    {"resources.nodes": 2},
    {"evaluation.primaryMetric": "mcc"},
    {"evaluation.gate": {"minimum": 0.8}},
    {"output.suffix": "v3"},
    {"storage.region": "eu"},
    {"storage": ABSENT},
]


STARTED = {"trainingStartTime": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_spec_may_be_changed_until_training_starts(
    kube: Kube, namespace: str, changes: dict[str, Any]
) -> None:
    """A Train attempt whose pods have not run, for want of a node, is no start of training."""
    kube.create(job({}, namespace))
    attempts = [attempt("Prepare"), attempt("Train")]
    kube.merge("FineTuneJob", namespace, "j", {"status": {"attempts": attempts}}, "status")
    assert put(kube, job(changes, namespace))["metadata"]["generation"] == 2


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_spec_is_fixed_once_training_has_started(
    kube: Kube, namespace: str, changes: dict[str, Any]
) -> None:
    kube.create(job({}, namespace))
    kube.merge("FineTuneJob", namespace, "j", {"status": STARTED}, "status")
    with pytest.raises(RefusedError, match="training has started"):
        put(kube, job(changes, namespace))


def test_checkpoints_failure_policy_suspend_and_ttl_may_always_be_changed(kube: Kube, namespace: str) -> None:
    kube.create(job({}, namespace))
    kube.merge("FineTuneJob", namespace, "j", {"status": STARTED}, "status")
    put(kube, job({"suspend": True, "ttl": {"afterFinished": "1h"}}, namespace))
    put(kube, job({"suspend": False}, namespace))
    put(kube, job({"checkpoints": {"everyMinutes": 5, "keep": 3}}, namespace))
    put(kube, job({"failurePolicy": {"maxRestarts": 5}}, namespace))
    put(kube, job({"finishTraining": True}, namespace))


def test_status_can_still_be_written_once_training_has_started(kube: Kube, namespace: str) -> None:
    kube.create(job({}, namespace))
    kube.merge("FineTuneJob", namespace, "j", {"status": STARTED}, "status")
    kube.merge("FineTuneJob", namespace, "j", {"status": {"message": "x"}}, "status")
    kube.merge("FineTuneJob", namespace, "j", {"metadata": {"labels": {"a": "b"}}})


def attempt(stage: str) -> dict[str, Any]:
    return {
        "stage": stage,
        "number": 1,
        "generation": 1,
        "job": "j",
        "startTime": "2026-01-01T00:00:00Z",
        "outcome": "Running",
        "configDigest": "sha256:" + "0" * 64,
        "specDigest": "sha256:" + "0" * 64,
    }


def put(kube: Kube, body: dict[str, Any]) -> Any:
    meta = body["metadata"]
    there = kube.get("FineTuneJob", meta["namespace"], meta["name"])
    meta["resourceVersion"] = there["metadata"]["resourceVersion"]
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{meta['namespace']}/finetunejobs/{meta['name']}"
    return kube.call("PUT", path, body)


def fields(schema: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for name, inner in schema.get("properties", {}).items():
        found += [f"{path}.{name}", *fields(inner.get("items", inner), f"{path}.{name}")]
    return found


def test_kubectl_explains_every_field(kube: Kube, tmp_path: Path) -> None:
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    wanted = [path for path in fields(schema) if path.startswith((".spec.", ".status."))]
    assert len(wanted) > 100
    text = kubectl(kube, tmp_path, "explain", "finetunejobs", "--recursive")
    assert "learningRate" in text
    parents = {""} | {path.rpartition(".")[0] for path in wanted}
    for parent in sorted(parents):
        described = kubectl(kube, tmp_path, "explain", f"finetunejobs{parent}")
        assert "<no description>" not in described, parent


def test_columns_show_the_state_of_a_job(kube: Kube, namespace: str, tmp_path: Path) -> None:
    kube.create(job({}, namespace))
    scores = {"primary": 0.5, "metrics": {}}
    status = {
        "state": "Training",
        "stage": "Train",
        "message": "Training: step 1 of 2",
        "progress": {
            "percent": 50,
            "activity": "Training",
            "step": 1,
            "loss": 0.25,
            "etaSeconds": 7,
            "updated": "2026-01-01T00:00:00Z",
        },
        "evaluation": {
            "primaryMetric": "macroF1",
            "rows": 10,
            "majority": scores,
            "baseline": scores | {"primary": 0.625},
            "tuned": scores | {"primary": 0.75},
        },
        "model": {"uri": "s3://tuned/x/"},
    }
    kube.merge("FineTuneJob", namespace, "j", {"status": status}, "status")
    head, row = kubectl(kube, tmp_path, "get", "ftj", "-n", namespace).splitlines()
    assert head.split() == ["NAME", "STATE", "STAGE", "PROGRESS", "METRIC", "TUNED", "BASELINE", "AGE"]
    assert row.split()[:-1] == ["j", "Training", "Train", "50", "macroF1", "0.75", "0.625"]
    wide = kubectl(kube, tmp_path, "get", "ftj", "-n", namespace, "-o", "wide")
    for shown in ("STEP", "LOSS", "ETA", "MODEL", "MESSAGE", "s3://tuned/x/", "step 1 of 2", "0.25"):
        assert shown in wide
    assert "j" in kubectl(kube, tmp_path, "get", "ai", "-n", namespace)


@pytest.mark.parametrize("server_side", [False, True])
def test_kubectl_refuses_a_misspelt_field_and_takes_the_corrected_file(
    kube: Kube, namespace: str, tmp_path: Path, server_side: bool
) -> None:
    file = tmp_path / "job.yaml"
    command = ["apply", f"--server-side={str(server_side).lower()}", "-f", str(file)]
    file.write_text(yaml.safe_dump(job({"training.lerningRate": 1}, namespace)))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(kube, tmp_path, *command)
    said = (
        ".spec.training.lerningRate: field not declared" if server_side else 'unknown field "spec.training.le'
    )
    assert said in refused.value.stderr
    file.write_text(yaml.safe_dump(job({"training.learningRate": 0.001}, namespace)))
    assert "finetunejob.finetune.dev/j" in kubectl(kube, tmp_path, *command)
    assert kube.get("FineTuneJob", namespace, "j")["spec"]["training"]["learningRate"] == 0.001


def test_a_client_that_does_not_ask_for_strictness_loses_the_misspelt_field(kube: Kube) -> None:
    path = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs?dryRun=All"
    taken = kube.call("POST", path, job({"training.lerningRate": 0.001}))
    assert "lerningRate" not in taken["spec"]["training"]
    assert taken["spec"]["training"]["batchSize"] == "Auto"


def kubectl(kube: Kube, folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [binaries.path("kubectl"), "--kubeconfig", kube.kubeconfig, f"--cache-dir={folder}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
