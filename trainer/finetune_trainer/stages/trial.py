"""Tests the base model in a subprocess, because Prepare does not import torch.

    python -m finetune_trainer.stages.trial FOLDER

The program reads config.json and request.json in FOLDER, and writes outcome.json.
"""

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer.config import ComputeType, Method
from finetune_trainer.contract import FailureClass, Model, Task
from finetune_trainer.data.findings import Finding, warning
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import method_facts, model_check
from finetune_trainer.models.memory import ModelFacts
from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.models.model_folder import Inspection
from finetune_trainer.paths import Paths
from finetune_trainer.stages.measure_model import measure_model
from finetune_trainer.tasks.registry import model_of, report_of

log = logging.getLogger(__name__)

_CONFIG, _REQUEST, _OUTCOME = "config.json", "request.json", "outcome.json"
_SECONDS = 600
MEASURED_TOKENS = 2048
"""Maximum tokens of the row with which activations are measured."""


class Request(Model):
    """The input of the subprocess."""

    task: Task
    method: Method
    shapes: dict[str, tuple[int, ...]]
    """Shape of each weight in the files of the model."""
    weights: ComputeType
    """Data type of the weights in the memory of Train."""


class Refusal(Model):
    """A StageFailure in the outcome."""

    failure: FailureClass
    reason: str
    message: str
    hint: str


class Outcome(Model):
    """The output of the subprocess."""

    refusal: Refusal | None = None
    facts: MethodFacts | None = None
    rows_tried: bool = False
    can_checkpoint: bool = True
    """Whether the architecture supports activation checkpointing."""
    sizes: ModelFacts | None = None
    """None if the model could not be measured."""


@dataclass(frozen=True)
class Trial:
    """The result of `try_model`."""

    findings: tuple[Finding, ...] = ()
    """Warnings about limits of the method, or about a failed subprocess."""
    can_checkpoint: bool = True
    """Whether the architecture supports activation checkpointing; True after a failed subprocess."""
    sizes: ModelFacts | None = None
    """The sizes on which the memory depends; None after a failed subprocess."""


def try_model(
    task: Task, method: Method, inspection: Inspection, weights: ComputeType, paths: Paths
) -> Trial:
    """Builds the base model, applies the method, and runs a forward pass, all in a subprocess.

    Args:
        task: the task of the run.
        method: the training method of the run.
        inspection: properties of the base model.
        weights: data type of the weights in the memory of Train.
        paths: paths of the pod.

    Raises:
        StageFailure: UserConfig: ModelUnsupported, ModelIncomplete, TargetModulesUnknown, TooManyLayers.
    """
    folder = paths.scratch / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _CONFIG).write_text(json.dumps(inspection.config))
    request = Request(task=task, method=method, shapes=inspection.weights, weights=weights)
    (folder / _REQUEST).write_text(request.model_dump_json(by_alias=True))
    why = _run_subprocess(folder)
    try:
        outcome = Outcome.model_validate_json((folder / _OUTCOME).read_bytes())
    except (OSError, ValidationError):
        log.warning("the trial of the base model ended without a result: %s", why)
        text = f"The base model could not be tried before training: the process {why}. Train may refuse it."
        return Trial((warning("ModelNotTried", text),))
    if refusal := outcome.refusal:
        raise StageFailure(refusal.failure, refusal.reason, refusal.message, refusal.hint)
    findings = method_facts.warn_limits(method, outcome.facts or MethodFacts(), inspection.parameters)
    if report_of(task).serving(adapter=True):
        findings += method_facts.warn_unloadable(method)
    return Trial(tuple(findings), outcome.can_checkpoint, outcome.sizes)


def _run_subprocess(folder: Path) -> str:
    """Runs this module as a program, and describes the end of the process."""
    try:
        ended = subprocess.run(  # noqa: S603 - this very module
            [sys.executable, "-m", __name__, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {_SECONDS} s"
    if ended.returncode:
        log.warning("%s", ended.stderr[-4000:])
    if ended.returncode < 0:
        return f"was ended by signal {-ended.returncode}, perhaps for want of memory"
    return f"ended with code {ended.returncode}"


def run_trial(folder: Path, request: Request) -> Outcome:
    """Tests the base model; imports torch.

    Args:
        folder: folder with config.json.
        request: the input.
    """
    from finetune_trainer.models import trial  # noqa: PLC0415 - torch, 5 s
    from finetune_trainer.models.load import silence_libraries  # noqa: PLC0415

    silence_libraries()
    task, auto = model_of(request.task), report_of(request.task).AUTO_CLASS
    try:
        model = trial.build_on_meta_device(folder, auto, request.shapes, task.head)
        tried = trial.run_rows(
            model,
            auto,
            lambda network, split, numbers, pad: task.predict(
                network, task.collate(split, numbers, pad, None)
            ),
        )
        can_checkpoint = bool(model.supports_gradient_checkpointing)
        facts = trial.find_method_facts(model, request.method, task.head(model))
    except StageFailure as failure:
        refusal = Refusal(
            failure=failure.failure, reason=failure.reason, message=failure.message, hint=failure.hint
        )
        return Outcome(refusal=refusal)
    return Outcome(
        facts=facts, rows_tried=tried, can_checkpoint=can_checkpoint, sizes=_measure(folder, request)
    )


def _measure(folder: Path, request: Request) -> ModelFacts | None:
    """Measures the model for the memory estimate; a failure is only logged."""
    config = json.loads((folder / _CONFIG).read_bytes())
    length = model_check.find_position_limit(config, MEASURED_TOKENS) or MEASURED_TOKENS
    try:
        return measure_model(
            folder, request.task, request.method, request.weights, min(length, MEASURED_TOKENS)
        )
    except Exception:  # models raise arbitrary exceptions
        log.exception("the memory of the model is unknown")
        return None


def main(folder: Path) -> None:
    """Reads the request and writes the outcome."""
    request = Request.model_validate_json((folder / _REQUEST).read_bytes())
    (folder / _OUTCOME).write_text(run_trial(folder, request).model_dump_json(by_alias=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
