"""The protocols of a task, and the values that a task takes and returns.

A task is a package beside this module with four modules: `data` (no torch), `model`, `metrics` and `report`.
A task takes values, such as rows, predictions and a model, and never the run. Only stages know which tasks
exist, see `registry`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue, NonNegativeInt, PositiveInt

from finetune_trainer.config import ComputeType, EvaluationSpec, Run, Training
from finetune_trainer.contract import Digest, Evaluation, MetricName, Model, Task
from finetune_trainer.data.example import Encoding, Example
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.data.tokens import UntrainedMessages
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.plan import AutoLimits
from finetune_trainer.report.record import HeadInit
from finetune_trainer.report.task_report import TaskReport

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from finetune_trainer.models.load import AnyModel
    from finetune_trainer.models.logistic_regression import Peers

Tensors = dict[str, "torch.Tensor"]
Predictions = npt.NDArray[np.floating[Any]]
"""The output of a model for each row, shape [rows, width]; each task defines the columns."""
Numbers = Sequence[int] | npt.NDArray[np.int64]
OnProgress = Callable[[float], None]
"""Called with the share that is done, from 0 to 1."""
Row = TypeVar("Row", bound=Example)


class TaskData(Protocol[Row]):
    """Converts the values of rows to tokens; implemented by the module `data`, which imports no torch."""

    @property
    def HEAD(self) -> str:  # noqa: N802 - a module's constant
        """The head that the task needs, such as `classification head`, for messages."""

    @property
    def SUITABLE(self) -> str:  # noqa: N802
        """The models that have this head, for messages."""

    @property
    def AUTO_LIMITS(self) -> AutoLimits:  # noqa: N802
        """Limits of the `Auto` values."""

    def model_types(self) -> frozenset[str]:
        """Returns the model types of transformers that support this task."""

    def example(self, line: int, values: Mapping[str, Any], run: Run) -> Row | str:
        """Converts a row to an example, or returns why the row cannot be used (`has no 'label'`).

        Prepare calls this function in each pass, so the same values must give the same example.

        Args:
            line: number of the row's line.
            values: values of the columns of `dataset.columns`.
            run: the configuration of the run.
        """

    def columns(self, run: Run) -> frozenset[str]:
        """Returns the columns that the task reads."""

    def missing_columns(self, present: Collection[str], run: Run) -> tuple[str, ...]:
        """Returns the required columns that are not in `present`, the columns of a file."""

    def check_rows(
        self, splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]
    ) -> list[Finding]:
        """Checks whether a model can be trained and evaluated on the rows.

        Args:
            splits: the rows of each split.
            homes: name of the files of each split, for findings.
        """

    def classes(self, strata: Collection[str]) -> tuple[str, ...]:
        """Returns the class names in the order of the outputs of the head; empty for a task without classes.

        Args:
            strata: strata of the training rows, see data.example.Example.
        """

    def schema(self) -> "pa.Schema":
        """Returns the columns of the shards of the task, without ROW_FIELD."""

    def encode(self, tokenizer: Any, rows: Sequence[Row], run: Run) -> list[Encoding]:
        """Tokenizes the rows without truncation."""

    def truncate(
        self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding], max_length: int
    ) -> list[Encoding]:
        """Truncates the rows to `max_length` tokens."""

    @property
    def REFUSALS(self) -> Mapping[str, str]:  # noqa: N802
        """Code of each finding about refused rows, and the predicate after `12 train rows of s3://...`."""

    def refusal(self, encoded: Encoding) -> tuple[str, str] | None:
        """Returns a code of REFUSALS and the reason why a truncated row cannot be trained on, or None."""

    def report_untrained(self, untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
        """Reports messages without loss.

        Args:
            untrained: counts of the messages.
            name: name of the split.
            home: name of the files of the split.
        """

    def report_samples(
        self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding], trained_tokens: int
    ) -> dict[str, JsonValue]:
        """Returns the task's own part of the data report.

        Args:
            tokenizer: the tokenizer of the model.
            rows: the first SHOWN_ROWS training rows, see data.tokens.
            encoded: the tokens of these rows.
            trained_tokens: number of tokens of all training rows that contribute to the loss.
        """


class BaselineKey(Model):
    """Everything that a baseline depends on; the digest of the key names the baseline."""

    task: Task
    model: Digest
    data: Digest
    max_length: PositiveInt
    primary_metric: MetricName
    precision: ComputeType
    """Data type of matrix products."""
    weights: ComputeType = "float32"
    """Data type of the weights in memory."""
    seed: NonNegativeInt
    code: str
    """Version of the task's metrics and of its baseline."""


class Baseline(Model):
    """The part of a baseline that is the same for all tasks."""

    key: BaselineKey
    test_rows: PositiveInt
    """Number of test rows that were measured."""
    packing: Packing | None = None
    """Cost model of packing; None if the base model does not support packing."""


@dataclass(frozen=True)
class EvaluationInputs:
    """The values that a task needs to evaluate a model."""

    prepared: Prepared
    base: Path
    """Folder with the files of the base model."""
    dtype: "torch.dtype"
    """Data type of the weights in memory."""
    pad_id: int
    evaluation: EvaluationSpec
    seed: int


@dataclass(frozen=True)
class HeadStart:
    """The weights from which a new head starts."""

    weights: "Mapping[str, torch.Tensor]"
    """Every parameter of the head by its name in the model that `load` returns, on the CPU."""
    init: HeadInit


class Evaluate(Protocol):
    """Runs a model over all rows of a split, with all ranks."""

    @property
    def peers(self) -> "Peers":
        """The process group for distributed calculations."""

    def ready(self, model: "AnyModel") -> "AbstractContextManager[AnyModel]":
        """Prepares a model for forward passes within the context; a collective call."""

    def __call__(
        self,
        compute: "Callable[[Tensors], torch.Tensor]",
        split: Split,
        on_progress: OnProgress,
        packing: Packing | None = None,
    ) -> Predictions:
        """Computes one row of numbers for each row of the split; a collective call.

        Args:
            compute: maps the inputs of a batch to numbers, shape [rows of the batch, width].
            split: the rows.
            on_progress: called with the completed share, from 0 to 1.
            packing: cost model of packing; None for padded rows.

        Returns:
            Shape [rows, width].
        """


class TaskModel(Protocol):
    """Loads and runs models; implemented by the module `model`, which imports torch."""

    @property
    def METRIC_CODE(self) -> str:  # noqa: N802
        """Version of the metrics and of the baseline. A new version invalidates stored baselines."""

    @property
    def FORWARD(self) -> Mapping[str, Any]:  # noqa: N802
        """Further keyword arguments of every forward pass."""

    def load(self, folder: Path, prepared: Prepared, dtype: "torch.dtype") -> "PreTrainedModel":
        """Loads the base model for training, equal on every rank for the same torch seed.

        Args:
            folder: files of the base model.
            prepared: the rows.
            dtype: data type of all floating point parameters.

        Raises:
            StageFailure: UserConfig, if the files do not contain a model for this task.
        """

    def head(self, model: "PreTrainedModel") -> tuple[str, ...]:
        """Returns the modules that the base model can lack, by name. Every method trains these modules."""

    def load_published(self, folder: Path, base: Path | None, dtype: "torch.dtype") -> "torch.nn.Module":
        """Loads a tuned model in evaluation mode.

        Args:
            folder: files of the whole model, or of an adapter.
            base: files of the base model, for an adapter.
            dtype: data type of the weights.

        Raises:
            StageFailure: Internal, if weights are missing or unexpected.
        """

    def collate(self, split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
        """Converts rows to the inputs of the model, and adds `labels` and `row_index`, which have one shape.

        `labels` contains the targets, and IGNORE_INDEX elsewhere. `row_index` contains the index in `numbers`
        of the row of each target.

        Args:
            split: the rows.
            numbers: row numbers; FILLER is a row without targets.
            pad_id: id of the padding token.
            packing: cost model of packing; None for padded rows.
        """

    def loss_function(
        self, training: Training, prepared: Prepared, device: "torch.device"
    ) -> "Callable[[Any, torch.Tensor], torch.Tensor]":
        """Returns the loss that training minimises.

        Args:
            training: hyperparameters.
            prepared: the rows.
            device: device of the model.

        Returns:
            A function of the outputs of the model and `labels`, which returns the loss of each label in
            order, 0 for IGNORE_INDEX, shape [labels], without reading a value of the device. The loss of a
            batch is the mean over its targets.
        """

    def head_start(
        self,
        inputs: EvaluationInputs,
        training: Training,
        evaluate: Evaluate,
        on_progress: OnProgress,
    ) -> HeadStart | None:
        """Computes the weights from which a new head starts; a collective call.

        Args:
            inputs: rows and settings.
            training: hyperparameters.
            evaluate: runs a model over rows.
            on_progress: called with the completed share, from 0 to 1.

        Returns:
            The weights; None if the head starts with the weights of `load`.
        """

    def predict(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """Computes the predictions for each row, float32 or float64, shape [rows, width]."""

    def logits(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """Computes the logits for the verification of the saved model, float32, shape [rows, width]."""

    def verified_rows(self, model: "torch.nn.Module", split: Split) -> int:
        """Returns the number of rows whose logits Publish compares in one forward pass."""

    def load_for_baseline(self, inputs: EvaluationInputs) -> "torch.nn.Module":
        """Loads the model that `measure_baseline` evaluates."""

    def packing_of(self, model: "torch.nn.Module") -> Packing | None:
        """Returns the cost model of packing; None if the model does not support packing."""

    def measure_baseline(
        self,
        inputs: EvaluationInputs,
        baseline: Baseline,
        model: "torch.nn.Module",
        evaluate: Evaluate,
        on_progress: OnProgress,
    ) -> Baseline:
        """Measures the baseline; a collective call.

        Args:
            inputs: rows and settings.
            baseline: the part that is the same for all tasks.
            model: the model of `load_for_baseline`.
            evaluate: runs a model over rows.
            on_progress: called with the completed share, from 0 to 1.
        """

    def read_baseline(self, document: bytes) -> Baseline:
        """Reads a stored baseline.

        Raises:
            ValidationError: the document is not a baseline of this task.
        """

    def samples(self, inputs: EvaluationInputs, model: "torch.nn.Module") -> tuple[str, ...]:
        """Generates texts for the report; empty for a task that generates no text. A collective call."""


class TaskMetrics(Protocol):
    """Computes scores from predictions; implemented by the module `metrics`, which imports no torch."""

    def score(self, metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
        """Computes one metric of one model on a split."""

    def comparable(self, predictions: Predictions) -> Predictions:
        """Returns numbers that rounding in the model changes only a little, shape [rows, width]."""

    def evaluation(self, inputs: EvaluationInputs, baseline: Any, predictions: Predictions) -> Evaluation:
        """Compares baseline and tuned model on the test rows, with confidence intervals.

        Args:
            inputs: rows and settings.
            baseline: the baseline of the task.
            predictions: predictions of the tuned model for the test rows.
        """


class RecordingTaskReport(TaskReport, Protocol):
    """A TaskReport that also creates the records of Train; implemented by the module `report`."""

    def record(
        self,
        inputs: EvaluationInputs,
        baseline: Any,
        predictions: Predictions,
        samples: Sequence[str],
        *,
        reused: bool,
    ) -> Model:
        """Creates the task's part of the training record.

        Args:
            inputs: rows and settings.
            baseline: the baseline of the task.
            predictions: predictions of the tuned model for the test rows.
            samples: texts that the tuned model generated.
            reused: whether an earlier attempt measured the baseline.
        """

    def prediction_lines(
        self, inputs: EvaluationInputs, baseline: Any, predictions: Predictions
    ) -> Iterator[str]:
        """Yields one JSON line for each test row, with the data from which all metrics can be computed."""


@dataclass(frozen=True)
class TrainingTask:
    """The modules of a task that Train uses."""

    model: TaskModel
    metrics: TaskMetrics
    report: RecordingTaskReport
