"""The job of the rehearsal: its inputs in the store, and its manifest."""

import io
from typing import Any

from minio import Minio

from bench.rehearsal.random_model import write_files
from bench.rehearsal.rows import make_rows
from bench.shapes import Shape

ROWS = {"train": 4, "validation": 2, "test": 2}
"""Two optimizer steps of one row for each of two processes; each process evaluates one row."""


def upload_model(store: Minio, bucket: str, folder: str, shape: Shape) -> None:
    """Uploads a base model with random weights, one file at a time."""
    for file in write_files(shape):
        store.fput_object(bucket, f"{folder}/{file.name}", str(file))


def upload_rows(store: Minio, bucket: str, folder: str, tokens: int) -> None:
    """Uploads `train.jsonl`, `validation.jsonl` and `test.jsonl` with rows of `tokens` tokens."""
    for seed, (name, count) in enumerate(ROWS.items()):
        data = make_rows(count, tokens, seed)
        store.put_object(bucket, f"{folder}/{name}.jsonl", io.BytesIO(data), len(data))


def make_spec(bucket: str, model: str, rows: str, tokens: int, memory: str, cpu: str) -> dict[str, Any]:
    """Returns the parts of the spec: LoRA on all linear layers, ZeRO stage 3, two Train pods.

    Args:
        bucket: bucket of the inputs.
        model: folder of the base model.
        rows: folder of the rows.
        tokens: tokens of a row.
        memory: memory of each Train pod.
        cpu: CPUs of each Train pod.
    """
    return {
        "task": "TextGeneration",
        "model": {"uri": f"s3://{bucket}/{model}"},
        "dataset": {name: {"uri": f"s3://{bucket}/{rows}/{name}.jsonl"} for name in ROWS},
        "method": {"type": "LoRA", "lora": {"rank": 8}},
        "training": {
            "epochs": 1,
            "batchSize": 2,
            "learningRate": 1e-4,
            "maxLength": tokens,
            "precision": "BFloat16",
        },
        "deepspeed": {"zeroStage": 3},
        "resources": {"nodes": 2, "cpu": cpu, "memory": memory},
    }
