"""What a task has to be able to do; each is a folder beside this file, whose modules do it.

`preparing` is asked by Prepare and imports no torch, `learning` by Train and Publish, `telling` by the
model card and the report, `showing` by the report. Nothing else in the trainer knows which tasks there are.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from finetune_trainer.config import Run
from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.data.example import Encoding, Example
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.models.plan import AutoLimits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from finetune_trainer.data.shards import Prepared, Split
    from finetune_trainer.models.packing import Packing
    from finetune_trainer.report.markup import Section
    from finetune_trainer.report.record import TrainingRecord
    from finetune_trainer.training.baseline import Baseline, BaselineKey
    from finetune_trainer.training.context import Context

Tensors = dict[str, "torch.Tensor"]
Predictions = npt.NDArray[np.floating[Any]]
"""What a model says about each row, shape [rows, width]; what the numbers mean is the task's own."""
Numbers = Sequence[int] | npt.NDArray[np.int64]
Row = TypeVar("Row", bound=Example)
LICENCE = "The base model's licence, and that of the data, apply to this model too: check both."
"""A limit of every task."""


class Preparing(Protocol[Row]):
    """From the values of a row to tokens. No torch."""

    @property
    def HEAD(self) -> str:  # noqa: N802 - a module's constant
        """What a model needs for this task, such as `classification head`."""

    @property
    def SUITABLE(self) -> str:  # noqa: N802
        """Which models have it, for people."""

    @property
    def AUTO(self) -> AutoLimits:  # noqa: N802
        """What its `Auto` values start from."""

    def model_types(self) -> frozenset[str]:
        """Model types of transformers that can do this task."""

    def example(self, line: int, values: Mapping[str, Any], run: Run) -> Row | str:
        """A row that can be used, or why it cannot (`has no 'label'`)."""

    def absent(self, there: Collection[str], run: Run) -> tuple[str, ...]:
        """Columns that no row can do without and that a file with these columns has not."""

    def check_rows(
        self, splits: Mapping[SplitName, Sequence[Row]], homes: Mapping[SplitName, str]
    ) -> list[Finding]:
        """Whether the rows can be learnt and measured; `homes` is the file of each split."""

    def classes(self, train: Sequence[Row]) -> tuple[str, ...]:
        """Names of the classes in the order of the head's outputs; none for a task without classes."""

    def labels(self, rows: Sequence[Row], classes: Sequence[str]) -> npt.NDArray[np.int32]:
        """Number of each row's class, shape [rows]; zeros for a task without classes."""

    def encode(self, tokenizer: Any, rows: Sequence[Row], run: Run) -> list[Encoding]:
        """Each row whole."""

    def cut(
        self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding], max_length: int
    ) -> list[Encoding]:
        """The same with no row longer than `max_length`."""

    def check_encoded(
        self,
        splits: Mapping[SplitName, Sequence[Row]],
        encoded: Mapping[SplitName, Sequence[Encoding]],
        homes: Mapping[SplitName, str],
    ) -> list[Finding]:
        """Whether what is left of the rows after cutting can be learnt."""

    def shown(self, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoding]) -> dict[str, JsonValue]:
        """The task's own part of the data report: what is learnt of the training rows."""


class Learning(Protocol):
    """From tokens to a model, and to what it is worth. With torch."""

    @property
    def METRIC_CODE(self) -> str:  # noqa: N802
        """Raised when the meaning of a metric or of the baseline changes: baselines are measured anew."""

    @property
    def FORWARD(self) -> Mapping[str, Any]:  # noqa: N802
        """What the model is told at every call, beside the inputs."""

    def load(self, folder: Path, prepared: "Prepared") -> "PreTrainedModel":
        """The base model ready for training, float32, the same on every rank for the same torch seed.

        Raises:
            StageFailure: UserConfig, the files do not make a model for this task.
        """

    def head(self, model: "PreTrainedModel") -> tuple[str, ...]:
        """Names of the modules that the base model's files may lack: every method trains them in full."""

    def load_published(self, folder: Path, base: Path | None) -> "torch.nn.Module":
        """A tuned model, float32, ready to answer; nothing missing or left over.

        Args:
            folder: the model saved whole, or an adapter.
            base: the base model's files, where it is an adapter.

        Raises:
            StageFailure: Internal.
        """

    def collate(self, split: "Split", numbers: Numbers, pad_id: int, packing: "Packing | None") -> Tensors:
        """Some rows as the model's inputs, with two more tensors of one shape.

        `labels`: what is to be learnt, IGNORE_INDEX elsewhere. `row_index`: the row of each label,
        from 0. FILLER stands for a row that carries no loss.

        Args:
            split: the rows.
            numbers: which of them.
            pad_id: the tokenizer's padding token.
            packing: when the rows may be laid end to end; None: never.
        """

    def losses(self, outputs: Any, labels: "torch.Tensor") -> "torch.Tensor":
        """The loss of each label that is not IGNORE_INDEX, in their order, flat."""

    def predictions(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """What a model says about each row, float32 or float64, shape [rows, width]."""

    def logits(self, model: "torch.nn.Module", inputs: Tensors) -> "torch.Tensor":
        """Logits that the model must give again once it is saved and loaded, float32, shape [rows, width]."""

    def verified_rows(self, model: "torch.nn.Module", split: "Split") -> int:
        """Of how many rows Publish compares the logits: as many as can be stored and computed at once."""

    def measured(self, metric: MetricName, predictions: Predictions, split: "Split", classes: int) -> float:
        """One metric of one model on one split."""

    def measure_baseline(
        self, context: "Context", key: "BaselineKey", on_progress: Callable[[float], None]
    ) -> "Baseline | None":
        """What the tuned model is compared with; a collective call, its result on rank 0 alone."""

    def read_baseline(self, document: bytes) -> "Baseline":
        """A stored baseline.

        Raises:
            ValidationError: it is none of this task.
        """

    def evaluation(self, context: "Context", baseline: Any, predictions: Predictions) -> Evaluation:
        """Base model and tuned model on the test rows, with intervals."""

    def facts(
        self,
        context: "Context",
        model: "torch.nn.Module",
        baseline: Any,
        predictions: Predictions,
        *,
        reused: bool,
    ) -> Any:
        """The task's own part of the training record; asked on rank 0 alone.

        Args:
            context: the run.
            model: the tuned one, whole, on the device.
            baseline: what it is compared with.
            predictions: of the tuned model on the test rows.
            reused: whether an earlier attempt measured the baseline.
        """

    def prediction_lines(self, context: "Context", baseline: Any, predictions: Predictions) -> Iterator[str]:
        """One JSON line a test row: everything needed to compute every metric again."""


class Telling(Protocol):
    """What model card and report say of this task."""

    @property
    def PIPELINE(self) -> str:  # noqa: N802
        """The task's name on model hubs."""

    def kind(self, record: "TrainingRecord") -> str:
        """What the model is, such as `A text classifier with 3 classes`."""

    def results(self, record: "TrainingRecord") -> str:
        """How to read the table of metrics; names stand in backticks, nothing else is markup."""

    def details(self, record: "TrainingRecord") -> str:
        """A section of the card with figures that only this task has, as Markdown."""

    @property
    def AUTO(self) -> str:  # noqa: N802
        """The class of transformers that loads it."""

    def use(self, record: "TrainingRecord") -> str:
        """Python that uses the model."""

    def limits(self, record: "TrainingRecord") -> list[str]:
        """What a user must not expect of it, as plain text: labels may be in it."""


class Showing(Protocol):
    """What only this task has to show in the report."""

    def sections(self, record: "TrainingRecord") -> "Sequence[Section]":
        """Parts of the page, in order."""
