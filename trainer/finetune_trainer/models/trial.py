"""Builds a base model without its weights and runs rows through it, to refuse what Train would refuse.

No weight is read. The whole model is built on PyTorch's meta device, which knows shapes and no values, by the
loader that Train uses, and the method is applied to it. Rows go through a model with random weights, which
has one or two layers if the whole model is large.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from finetune_trainer.config import Method
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Split
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import methods
from finetune_trainer.models.class_layer import class_layer
from finetune_trainer.models.load import LOCAL, check_complete
from finetune_trainer.models.method_facts import MethodFacts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

MOST_PARAMETERS = 300_000_000
"""Of a model with weights: 1.2 GB in float32."""
_LAYERS = (2, 1)
_TOKENS = (7, 5)
"""Tokens of the rows that go through the model."""
_EXCERPT = 300
_SPREAD = 0.05
Head = Callable[["PreTrainedModel"], tuple[str, ...]]
Through = Callable[["PreTrainedModel", Split, tuple[int, ...], int], Any]
"""Gives rows to a model as the task does: model, rows, which of them, padding token."""


def on_meta(folder: Path, auto: str, shapes: Mapping[str, tuple[int, ...]], head: Head) -> Any:
    """The whole model on the meta device, as Train loads it.

    Args:
        folder: holds config.json.
        auto: the class of transformers that loads it, such as AutoModelForCausalLM.
        shapes: of each weight in the files, by name.
        head: names the modules that the files may lack; none for a task whose head comes with the model.

    Raises:
        StageFailure: UserConfig, ModelUnsupported (transformers cannot build it), ModelIncomplete.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        with torch.device("meta"):
            kind: Any = type(getattr(transformers, auto).from_config(config))
        model, loaded = kind.from_pretrained(
            None,
            config=config,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        if head(model) and class_layer(model) is None:
            raise ValueError("it has no linear layer with one output for each class")  # noqa: TRY301
    except Exception as error:
        raise unsupported(f"cannot make an {auto} of it", error) from error
    check_complete(model, loaded, new_head=bool(head(model)))
    return model


def facts_of(model: Any, method: Method, head: tuple[str, ...]) -> MethodFacts:
    """What the method would do to the model; the model is changed.

    Raises:
        StageFailure: TargetModulesUnknown, TooManyLayers, ModelUnsupported (PEFT cannot adapt a layer).
    """
    try:
        return methods.facts(method, methods.applied(method, model, head, seed=0))
    except StageFailure:
        raise
    except Exception as error:
        raise unsupported("cannot apply spec.method to it", error) from error


def rows_go_through(model: "PreTrainedModel", auto: str, through: Through) -> bool:
    """Gives a few rows of unlike lengths to a model like this one, with random weights.

    A large model is shortened to two layers or one.

    Args:
        model: on the meta device, without adapters.
        auto: see `on_meta`.
        through: of the task.

    Returns:
        Whether the rows went through; False where a large model cannot be made small enough.

    Raises:
        StageFailure: ModelUnsupported.
    """
    whole = _parameters(model) <= MOST_PARAMETERS
    small = model.config if whole else _small(model.config, auto)
    if small is None:
        log.info("no rows were tried: one layer has more than %d parameters", MOST_PARAMETERS)
        return False
    try:
        _give(_with_weights(small, auto), through)
    except Exception as error:
        # Few layers may lack something that the whole model has.
        if not whole and not _fails_alike(model, through, error):
            log.info("no rows were tried: %s", one_line(error))
            return False
        raise unsupported("cannot put a row through it", error) from error
    return True


def unsupported(what: str, error: Exception) -> StageFailure:
    """A foreign library's refusal as a failure of the job's configuration."""
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ModelUnsupported",
        f"model.uri: transformers {transformers.__version__} {what}: {one_line(error)}.",
        "Name another base model, or save this one again with this version of transformers.",
    )


def one_line(error: Exception) -> str:
    """Type of an exception and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:_EXCERPT].rstrip('.')}" if lines else type(error).__name__


def _give(model: "PreTrainedModel", through: Through) -> None:
    text: Any = model.config.get_text_config()
    vocabulary = int(text.vocab_size)
    if text.pad_token_id is None or not 0 <= text.pad_token_id < vocabulary:
        text.pad_token_id = vocabulary - 1
    random = np.random.default_rng(0)
    others = np.setdiff1d(np.arange(min(vocabulary, 100)), [text.pad_token_id])
    split = Split(
        tokens=random.choice(others, sum(_TOKENS)).astype(np.int32),
        offsets=np.cumsum([0, *_TOKENS]).astype(np.int64),
        labels=np.zeros(len(_TOKENS), dtype=np.int32),
        rows=np.arange(1, len(_TOKENS) + 1).astype(np.int64),
        loss_mask=np.ones(sum(_TOKENS), dtype=np.bool_),
    )
    with torch.no_grad():
        through(model, split, (*range(len(_TOKENS)), FILLER), int(text.pad_token_id))


def _fails_alike(model: "PreTrainedModel", through: Through, error: Exception) -> bool:
    """Whether the whole model, without values, refuses the same rows in the same words."""
    try:
        _give(model, through)
    except Exception as other:  # noqa: BLE001 - whatever a foreign model raises
        return one_line(other) == one_line(error)
    return False


def _with_weights(config: "PretrainedConfig", auto: str) -> "PreTrainedModel":
    """A model of small random weights. Drawing them as each architecture does would take much longer."""
    from transformers.initialization import no_init_weights  # noqa: PLC0415 - private to this function

    with no_init_weights():
        model: Any = getattr(transformers, auto).from_config(copy.deepcopy(config), dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-_SPREAD, _SPREAD)
    return model.eval()  # type: ignore[no-any-return]


def _small(config: "PretrainedConfig", auto: str) -> "PretrainedConfig | None":
    """The config with as many layers as fit into MOST_PARAMETERS, at most two; None if not even one fits."""
    for layers in _LAYERS:
        try:
            short = _shortened(config, layers)
            with torch.device("meta"):
                size = _parameters(getattr(transformers, auto).from_config(copy.deepcopy(short)))
        except Exception as error:  # noqa: BLE001 - whatever a foreign config raises
            log.info("the model cannot have %d layers: %s", layers, one_line(error))
            continue
        if size <= MOST_PARAMETERS:
            return short
    return None


def _shortened(config: "PretrainedConfig", keep: int) -> "PretrainedConfig":
    """The same config with some of its layers; lists with an entry for each layer are cut likewise."""
    short: Any = copy.deepcopy(config)
    text = short.get_text_config()
    layers = text.num_hidden_layers
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:keep])
    text.num_hidden_layers = min(layers, keep)
    text.vocab_size = min(text.vocab_size, 1024)
    return short  # type: ignore[no-any-return]


def _parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())
