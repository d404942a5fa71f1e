"""Tests a base model without its weights, so that Prepare fails if Train would fail.

The whole model is built on the meta device of PyTorch, which stores shapes without values, with the loader of
Train. Then the training method is applied. A forward pass runs on a model with random weights, which has one
or two layers if the whole model is large.
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
from finetune_trainer.models.class_layer import find_class_layer
from finetune_trainer.models.load import LOCAL, check_complete
from finetune_trainer.models.memory import TRIAL_PARAMETERS
from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.models.vocabulary import reserve_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

MAX_PARAMETERS = TRIAL_PARAMETERS
"""Maximum number of parameters of a model with random weights: 1.2 GB in float32."""
_LAYERS = (2, 1)
_TOKENS = (7, 5)
"""Number of tokens of each test row."""
_EXCERPT = 300
_WEIGHT_RANGE = 0.05
Head = Callable[["PreTrainedModel"], tuple[str, ...]]
RunRows = Callable[["PreTrainedModel", Split, tuple[int, ...], int], Any]
"""Runs the forward pass of the task. Arguments: model, rows, row numbers, id of the padding token."""


def build_on_meta_device(folder: Path, auto: str, shapes: Mapping[str, tuple[int, ...]], head: Head) -> Any:
    """Builds the whole model on the meta device with the loader of Train.

    Args:
        folder: folder with config.json.
        auto: class of transformers, such as AutoModelForCausalLM.
        shapes: shape of each weight in the files, by name.
        head: returns the names of the modules that the files can lack.

    Raises:
        StageFailure: UserConfig: ModelUnsupported (transformers cannot build the model), ModelIncomplete.
    """
    try:
        empty = _build_architecture(folder, auto, torch.float32)
        config, kind = empty.config, type(empty)
        model, loaded = kind.from_pretrained(
            None,
            config=config,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        if head(model) and find_class_layer(model) is None:
            raise ValueError("it has no linear layer with one output for each class")  # noqa: TRY301
    except Exception as error:
        raise unsupported_model(f"cannot make an {auto} of it", error) from error
    check_complete(model, loaded, new_head=bool(head(model)))
    return model


def build_without_files(folder: Path, auto: str, dtype: torch.dtype) -> Any:
    """Builds the whole model on the meta device from config.json alone.

    Args:
        folder: folder with config.json.
        auto: class of transformers, such as AutoModelForCausalLM.
        dtype: data type of all floating point parameters.

    Raises:
        StageFailure: UserConfig: ModelUnsupported (transformers cannot build the model).
    """
    try:
        return _build_architecture(folder, auto, dtype)
    except Exception as error:
        raise unsupported_model(f"cannot make an {auto} of it", error) from error


def find_method_facts(model: Any, method: Method, head: tuple[str, ...]) -> MethodFacts:
    """Applies a method to a model and returns the effects of the method.

    Args:
        model: the model, which the function modifies.
        method: training method of the run.
        head: names of the new modules of the task.

    Raises:
        StageFailure: TargetModulesUnknown, TooManyLayers, ModelUnsupported (PEFT cannot adapt a layer).
    """
    try:
        reserve_rows(model, method)
        return methods.find_facts(method, methods.apply_method(method, model, head, seed=0))
    except StageFailure:
        raise
    except Exception as error:
        raise unsupported_model("cannot apply spec.method to it", error) from error


def run_rows(model: "PreTrainedModel", auto: str, run: RunRows) -> bool:
    """Runs rows of different lengths through a model with random weights and the same config.

    A large model is reduced to two layers or to one layer.

    Args:
        model: the model on the meta device, without adapters.
        auto: class of transformers, see `build_on_meta_device`.
        run: runs the forward pass of the task.

    Returns:
        Whether the forward pass ran; False if a large model cannot be reduced.

    Raises:
        StageFailure: ModelUnsupported.
    """
    whole = _count_parameters(model) <= MAX_PARAMETERS
    small = model.config if whole else _find_small_config(model.config, auto)
    if small is None:
        log.info("no rows were tried: one layer has more than %d parameters", MAX_PARAMETERS)
        return False
    try:
        _run_model(_build_with_random_weights(small, auto), run)
    except Exception as error:
        # The reduced config can be invalid although the whole model is valid.
        if not whole and not _fails_with_same_error(model, run, error):
            log.info("no rows were tried: %s", format_error(error))
            return False
        raise unsupported_model("cannot put a row through it", error) from error
    return True


def unsupported_model(what: str, error: Exception) -> StageFailure:
    """Returns the failure of a model that transformers or PEFT does not support."""
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ModelUnsupported",
        f"model.uri: transformers {transformers.__version__} {what}: {format_error(error)}.",
        "Name another base model, or save this one again with this version of transformers.",
    )


def format_error(error: Exception) -> str:
    """Formats the type of an exception and the first line of the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:_EXCERPT].rstrip('.')}" if lines else type(error).__name__


def _build_architecture(folder: Path, auto: str, dtype: torch.dtype) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(config, dtype=dtype)


def _run_model(model: "PreTrainedModel", run: RunRows) -> None:
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
        run(model, split, (*range(len(_TOKENS)), FILLER), int(text.pad_token_id))


def _fails_with_same_error(model: "PreTrainedModel", run: RunRows, error: Exception) -> bool:
    """Returns whether the whole model on the meta device fails with the same error."""
    try:
        _run_model(model, run)
    except Exception as other:  # noqa: BLE001 - models raise arbitrary exceptions
        return format_error(other) == format_error(error)
    return False


def _build_with_random_weights(config: "PretrainedConfig", auto: str) -> "PreTrainedModel":
    """Builds a model with small uniform random weights, which are faster than the architecture's own."""
    from transformers.initialization import no_init_weights  # noqa: PLC0415 - private to this function

    with no_init_weights():
        model: Any = getattr(transformers, auto).from_config(copy.deepcopy(config), dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-_WEIGHT_RANGE, _WEIGHT_RANGE)
    return model.eval()  # type: ignore[no-any-return]


def _find_small_config(config: "PretrainedConfig", auto: str) -> "PretrainedConfig | None":
    """Returns the config with two layers or one layer; None if one layer exceeds MAX_PARAMETERS."""
    for layers in _LAYERS:
        try:
            short = _shorten_config(config, layers)
            with torch.device("meta"):
                size = _count_parameters(getattr(transformers, auto).from_config(copy.deepcopy(short)))
        except Exception as error:  # noqa: BLE001 - configs raise arbitrary exceptions
            log.info("the model cannot have %d layers: %s", layers, format_error(error))
            continue
        if size <= MAX_PARAMETERS:
            return short
    return None


def _shorten_config(config: "PretrainedConfig", keep: int) -> "PretrainedConfig":
    """Returns a copy of the config with fewer layers. Lists with an entry for each layer are shortened."""
    short: Any = copy.deepcopy(config)
    text = short.get_text_config()
    layers = text.num_hidden_layers
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:keep])
    text.num_hidden_layers = min(layers, keep)
    text.vocab_size = min(text.vocab_size, 1024)
    return short  # type: ignore[no-any-return]


def _count_parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())
