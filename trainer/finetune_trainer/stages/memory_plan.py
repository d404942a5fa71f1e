"""Prints the estimated memory of a job: `python -m finetune_trainer plan --help`."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from finetune_trainer.config import (
    Checkpointing,
    ComputeType,
    FreezeLayers,
    Lora,
    LoraQuantization,
    Method,
    Precision,
)
from finetune_trainer.contract import TASKS, Offload, WeightsDtype
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import dtypes, model_check, plan, safetensors_header
from finetune_trainer.models.memory import GIB, Choices
from finetune_trainer.models.memory_fit import Capacity, Free, select_settings
from finetune_trainer.models.memory_text import format_plan
from finetune_trainer.stages.measure_model import measure_model

_LENGTH = 4096
_NO_LIMIT = 10**9
_UNITS = {"Gi": GIB, "G": 10**9}
_CONFIG_DTYPES: dict[Any, WeightsDtype] = {"bfloat16": "bfloat16", "float16": "float16"}


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a Train pod."""

    count: int
    memory: int
    """Bytes of each GPU."""

    @classmethod
    def parse(cls, text: str) -> "Gpus":
        """Parses `8x80Gi`: the number of GPUs, and the memory of each."""
        match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)(Gi|G)", text)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form 8x80Gi")
        return cls(int(match[1]), int(match[2]) * _UNITS[match[3]])


def main(arguments: Sequence[str]) -> int:
    """Prints the estimate for the arguments of the command line.

    Returns:
        Exit code: 0, or 2 if no estimate is possible.
    """
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        print(build_plan(given), end="")  # noqa: T201 - the output of a command
    except StageFailure as failure:
        print(f"{failure.message} {failure.hint}", file=sys.stderr)  # noqa: T201
        return 2
    except (OSError, ValueError) as error:
        print(f"{given.model}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def build_plan(given: argparse.Namespace) -> str:
    """Builds the text of the estimate; imports torch."""
    config = read_config(given.model)
    method = _method(given)
    gpus: Gpus = given.gpus
    model_dtype = find_dtype(given.model, config)
    world = gpus.count * given.nodes
    stage = given.zero_stage
    if stage == "Auto":
        keeps_bfloat16 = dtypes.may_keep_bfloat16(model_dtype, given.precision, gpus=True)
        offload: Offload = "None" if given.offload == "Auto" else given.offload
        stage = plan.zero_stage(world, offload, bfloat16_weights=keeps_bfloat16)
    products: ComputeType = "float32" if given.precision == "Float32" else "bfloat16"
    limit = model_check.find_position_limit(config, _NO_LIMIT)
    length = given.max_length or min(_LENGTH, limit or _LENGTH)
    if length < 2:  # noqa: PLR2004 - the smallest row with a next token
        raise ValueError(f"--max-length {length}: at least 2 tokens")
    if limit is not None and length > limit:
        raise ValueError(f"--max-length {length}: the model takes at most {limit} tokens")
    choices = Choices(
        zero_stage=int(stage),
        offload="None" if given.offload == "Auto" else given.offload,
        world=world,
        processes_per_node=gpus.count,
        model_dtype=model_dtype,
        products=products,
        rows=given.micro_batch,
        length=length,
    )
    facts = measure_model(given.model, given.task, method, choices.dtypes.weights, length)
    base = plan.BaseFacts(facts.base_parameters, None, model_dtype, facts.can_checkpoint)
    saving = plan.activation_checkpointing(given.activation_checkpointing, base)
    wanted = replace(choices, checkpointing=saving)
    free = Free(
        zero_stage=given.zero_stage == "Auto",
        offload=given.offload == "Auto",
        checkpointing=given.activation_checkpointing == "Auto",
        rows=False,
    )
    fit = select_settings(facts, wanted, free, Capacity(gpus.memory))
    return format_plan(facts, wanted, fit, gpus.memory)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no JSON object.
    """
    config = json.loads((folder / "config.json").read_bytes())
    if not isinstance(config, dict):
        raise ValueError("config.json is no JSON object")  # noqa: TRY004 - one error for all wrong content
    return config


def find_dtype(folder: Path, config: dict[str, Any]) -> WeightsDtype:
    """Returns the data type of the weights by the safetensors files, or else by config.json.

    Raises:
        StageFailure: ModelCorrupt.
    """
    types: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = safetensors_header.parse_header_length(stream.read(8), size, file.name)
            header = safetensors_header.parse_header(stream.read(length), size, file.name)
        types.update(header.dtypes.values())
    if types:
        return dtypes.find_weights_dtype(types)
    text = model_check.text_config(config)
    return _CONFIG_DTYPES.get(text.get("dtype") or text.get("torch_dtype"), "float32")


def _method(given: argparse.Namespace) -> Method:
    if given.method == "LoRA":
        return Lora(
            rank=given.rank,
            weight_decomposition=given.dora,
            quantization=given.quantization,
            train_embeddings=given.train_embeddings,
        )
    return FreezeLayers(train_last=given.train_last) if given.method == "FreezeLayers" else "Full"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune_trainer plan",
        description="Estimates the memory of a job from config.json of the base model. Reads no weights.",
    )
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json")
    parser.add_argument("--task", choices=sorted(TASKS), default="TextGeneration")
    parser.add_argument("--method", choices=("Full", "LoRA", "FreezeLayers"), required=True)
    parser.add_argument("--rank", type=int, default=16, help="LoRA: rank (default: 16)")
    parser.add_argument("--dora", action="store_true", help="LoRA: weightDecomposition")
    parser.add_argument(
        "--quantization", choices=get_args(LoraQuantization), default="None", help="LoRA: quantization"
    )
    parser.add_argument("--train-embeddings", action="store_true", help="LoRA: trainEmbeddings")
    parser.add_argument("--train-last", type=int, default=1, help="FreezeLayers: trained layers (default: 1)")
    parser.add_argument(
        "--gpus", type=Gpus.parse, required=True, help="GPUs of a pod and the memory of each, such as 8x80Gi"
    )
    parser.add_argument("--nodes", type=int, default=1, help="pods (default: 1)")
    parser.add_argument("--zero-stage", choices=("Auto", "0", "1", "2", "3"), default="Auto")
    parser.add_argument("--offload", choices=("Auto", *get_args(Offload)), default="Auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="Auto")
    parser.add_argument(
        "--max-length",
        type=int,
        help=f"tokens of a row (default: {_LENGTH:,}, or the limit of the model if that is less)",
    )
    parser.add_argument("--micro-batch", type=int, default=1, help="rows of a micro-batch (default: 1)")
    parser.add_argument("--activation-checkpointing", choices=get_args(Checkpointing), default="Auto")
    return parser
