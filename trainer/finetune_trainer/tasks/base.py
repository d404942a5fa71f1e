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
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from finetune_trainer.models.logistic_regression import Peers

Tensors = dict[str, "torch.Tensor"]
Predictions = npt.NDArray[np.floating[Any]]
"""The output of a model for each row, shape [rows, width]; each task defines the columns."""
Numbers = Sequence[int] | npt.NDArray[np.int64]
OnProgress = Callable[[float], None]
"""Called with the share that is done, from 0 to 1."""
Row = TypeVar("Row", bound=Example)


class TaskData(Protocol[Row]):
    """From the values of a row to tokens; module `data`. Imports no torch."""

    @property
    def HEAD(self) -> str:  # noqa: N802 - a module's constant
        """The part of a model that the task needs, such as `classification head`."""

    @property
    def SUITABLE(self) -> str:  # noqa: N802
        """The models that have this part, for people."""

    @property
    def AUTO(self) -> AutoLimits:  # noqa: N802
        """Limits of the `Auto` values."""

    def model_types(self) -> frozenset[str]:
        """Model types of transformers that can do this task."""

    def example(self, line: int, values: Mapping[str, Any], run: Run) -> Row | str:
        """The example of a row, or why the row cannot be used (`has no 'label'`).

        Prepare keeps the values of the columns of `dataset.columns` on disk and asks again in each pass: the
        same values must give the same example.
        """

    def columns(self, run: Run) -> frozenset[str]:
        """The columns that the task reads; other columns are not read."""

    def missing_columns(self, present: Collection[str], run: Run) -> tuple[str, ...]:
        """The columns that every row needs and that a file with the columns `there` lacks."""

    def check_rows(
        self, splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]
    ) -> list[Finding]:
        """Checks whether a model can be trained and measured on the rows; `homes`: the file of each split."""

    def classes(self, strata: Collection[str]) -> tuple[str, ...]:
        """Names of the classes in the order of the head's outputs; empty for a task without classes.

        Args:
            strata: of the training rows, see data.example.Example.
        """

    def schema(self) -> "pa.Schema":
        """Columns of the task's shards, ROW_FIELD excluded: those of data.shards and columns of its own."""

    def encode(self, tokenizer: Any, rows: Sequence[Row], run: Run) -> list[Encoding]:
        """Tokenizes the rows without truncation."""

    def truncate(
        self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding], max_length: int
    ) -> list[Encoding]:
        """Truncates the rows to `max_length` tokens."""

    @property
    def REFUSALS(self) -> Mapping[str, str]:  # noqa: N802
        """Codes of findings about rows that `refusal` refuses; what follows `12 train rows of s3://...`."""

    def refusal(self, encoded: Encoding) -> tuple[str, str] | None:
        """Why a row, cut to its length, cannot be learnt: a code of REFUSALS and the reason; None: it can."""

    def report_untrained(self, untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
        """What is said of messages of a split that cannot be learnt; `home`: the files of the split."""

    def report_samples(
        self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding], trained_tokens: int
    ) -> dict[str, JsonValue]:
        """The task's own part of the data report.

        Args:
            tokenizer: the model's.
            rows: the first training rows, as many as data.tokens.SHOWN_ROWS.
            encoded: the same rows as the model reads them.
            trained_tokens: tokens of all training rows that are learnt.
        """


class BaselineKey(Model):
    """Everything that a baseline depends on; the digest of the key names the baseline."""

    task: Task
    model: Digest
    data: Digest
    max_length: PositiveInt
    primary_metric: MetricName
    precision: ComputeType
    seed: NonNegativeInt
    code: str
    """Version of the task's metrics and of its baseline."""


class Baseline(Model):
    """The part of a baseline that is the same for all tasks."""

    key: BaselineKey
    test_rows: PositiveInt
    """Number of test rows that were measured."""
    packing: Packing | None = None
    """When rows are packed; None: never, because the base model does not support packing."""


@dataclass(frozen=True)
class EvaluationInputs:
    """The values that a task needs to measure a model."""

    prepared: Prepared
    base: Path
    """Folder with the files of the base model."""
    pad_id: int
    evaluation: EvaluationSpec
    seed: int


@dataclass(frozen=True)
class HeadStart:
    """The weights from which a new head starts."""

    weights: "Mapping[str, torch.Tensor]"
    """Every parameter of the head by its name in the model that `load` returns, float32, on the CPU."""
    init: HeadInit


class Evaluate(Protocol):
    """Runs a model over all rows of a split, with all ranks."""

    @property
    def peers(self) -> "Peers":
        """The ranks, for calculations that they share."""

    def __call__(
        self,
        compute: "Callable[[Tensors], torch.Tensor]",
        split: Split,
        on_progress: OnProgress,
        packing: Packing | None = None,
    ) -> Predictions:
        """Returns one row of numbers for each row of the split, shape [rows, width]; a collective call."""


class TaskModel(Protocol):
    """From tokens to a model and to its predictions; module `model`. Imports torch."""

    @property
    def METRIC_CODE(self) -> str:  # noqa: N802
        """Raised when the meaning of a metric or of the baseline changes: baselines are measured again."""

    @property
    def FORWARD(self) -> Mapping[str, Any]:  # noqa: N802
        """Keyword arguments of every forward pass beside the inputs."""

    def load(self, folder: Path, prepared: Prepared) -> "PreTrainedModel":
        """Loads the base model for training, float32, equal on every rank for the same torch seed.

        Raises:
            StageFailure: UserConfig, the files do not make a model for this task.
        """

    def head(self, model: "PreTrainedModel") -> tuple[str, ...]:
        """Names of the modules that the base model's files may lack: every method trains them in full."""

    def load_published(self, folder: Path, base: Path | None) -> "torch.nn.Module":
        """Loads a tuned model, float32, in evaluation mode; no weight may be missing or left over.

        Args:
            folder: the whole model, or an adapter.
            base: the base model's files, for an adapter.

        Raises:
            StageFailure: Internal.
        """

    def collate(self, split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
        """Some rows as the model's inputs, with two more tensors of one shape.

        `labels`: the targets, IGNORE_INDEX elsewhere. `row_index`: the row of each target, counted from 0
        within `numbers`. FILLER stands for a row without targets.

        Args:
            split: the rows.
            numbers: the numbers of the rows.
            pad_id: the tokenizer's padding token.
            packing: when to pack the rows; None: never.
        """

    def loss_function(
        self, training: Training, prepared: Prepared
    ) -> "Callable[[Any, torch.Tensor], torch.Tensor]":
        """The loss that training minimises.

        Returns:
            A function of the model's outputs and `labels`, which returns the loss of each target in order,
            shape [targets]. The loss of a batch is the sum of its losses over the number of its targets.
        """

    def head_start(
        self,
        inputs: EvaluationInputs,
        training: Training,
        evaluate: Evaluate,
        device: "torch.device",
        on_progress: OnProgress,
    ) -> HeadStart | None:
        """Computes the weights from which a new head starts; a collective call.

        Args:
            inputs: rows and settings.
            training: hyper-parameters.
            evaluate: runs a model over rows.
            device: of the model.
            on_progress: told the share that is done.

        Returns:
            None where the head starts as `load` returns the model.
        """

    def predict(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """The predictions for each row, float32 or float64, shape [rows, width]."""

    def logits(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """The logits that the saved and reloaded model must reproduce, float32, shape [rows, width]."""

    def verified_rows(self, model: "torch.nn.Module", split: Split) -> int:
        """Number of rows whose logits Publish compares: as many as can be stored and computed at once."""

    def load_for_baseline(self, inputs: EvaluationInputs, device: "torch.device") -> "torch.nn.Module":
        """Loads the model that the baseline measures."""

    def packing_of(self, model: "torch.nn.Module") -> Packing | None:
        """When rows are packed for a model; None where the model does not support packing."""

    def measure_baseline(
        self,
        inputs: EvaluationInputs,
        baseline: Baseline,
        model: "torch.nn.Module",
        evaluate: Evaluate,
        on_progress: OnProgress,
    ) -> Baseline:
        """Measures what the tuned model is compared with; a collective call.

        Args:
            inputs: rows and settings.
            baseline: the part that is the same for all tasks.
            model: from `load_for_baseline`.
            evaluate: runs the model over rows.
            on_progress: told the share that is done.
        """

    def read_baseline(self, document: bytes) -> Baseline:
        """Reads a stored baseline.

        Raises:
            ValidationError: the document is no baseline of this task.
        """

    def samples(self, inputs: EvaluationInputs, model: "torch.nn.Module") -> tuple[str, ...]:
        """Texts that the model writes for the report; none for a task that writes nothing."""


class TaskMetrics(Protocol):
    """From predictions to scores; module `metrics`. Imports no torch."""

    def score(self, metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
        """One metric of one model on a split."""

    def evaluation(self, inputs: EvaluationInputs, baseline: Any, predictions: Predictions) -> Evaluation:
        """Compares the base model with the tuned model on the test rows, with intervals.

        Args:
            inputs: rows and settings.
            baseline: the task's own baseline.
            predictions: of the tuned model on the test rows.
        """


class RecordingTaskReport(TaskReport, Protocol):
    """A task's report with what Train writes for it; module `report`. Imports no torch."""

    def record(
        self,
        inputs: EvaluationInputs,
        baseline: Any,
        predictions: Predictions,
        samples: Sequence[str],
        *,
        reused: bool,
    ) -> Model:
        """The task's part of the training record.

        Args:
            inputs: rows and settings.
            baseline: the task's own baseline.
            predictions: of the tuned model on the test rows.
            samples: texts that the tuned model writes.
            reused: whether an earlier attempt measured the baseline.
        """

    def prediction_lines(
        self, inputs: EvaluationInputs, baseline: Any, predictions: Predictions
    ) -> Iterator[str]:
        """One JSON line for each test row, from which every metric can be computed again."""


@dataclass(frozen=True)
class TrainingTask:
    """The modules of a task that Train uses."""

    model: TaskModel
    metrics: TaskMetrics
    report: RecordingTaskReport
