"""PURE: the data types of the weights and the matrix products of a run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_trainer.config import ComputeType, Precision
from finetune_trainer.contract import WeightsDtype

_NAMES: dict[str, WeightsDtype] = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The data type of published weights by the safetensors name of the data type of the base model."""


@dataclass(frozen=True)
class Dtypes:
    """The data types of a run.

    The base model and the tuned model are evaluated with the same data types as in training.
    """

    weights: ComputeType
    """Data type of all parameters in the memory of Train. With bfloat16, the optimizer has a float32 copy of
    the trained parameters, and gradients are accumulated and reduced in float32."""
    products: ComputeType
    """Data type of matrix products."""
    published: WeightsDtype
    """Data type of the published weights, see `find_weights_dtype`."""

    @property
    def autocast(self) -> bool:
        """Whether matrix products need autocast: their data type differs from that of the weights."""
        return self.products != self.weights


def select_dtypes(base: WeightsDtype, products: ComputeType, zero_stage: int) -> Dtypes:
    """Selects the data types of a run.

    The weights of a bfloat16 model stay bfloat16. DeepSpeed supports bfloat16 weights with float32 gradients
    from ZeRO stage 1. All other models are loaded in float32, because float16 weights need loss scaling.

    Args:
        base: data type of the weights of the base model.
        products: data type of matrix products.
        zero_stage: ZeRO stage of DeepSpeed.
    """
    kept = base == "bfloat16" and products == "bfloat16" and zero_stage > 0
    return Dtypes("bfloat16" if kept else "float32", products, base)


def may_keep_bfloat16(base: WeightsDtype, precision: Precision, *, gpus: bool) -> bool:
    """Returns whether the weights of the base model can stay bfloat16, see `select_dtypes`.

    Args:
        base: data type of the weights of the base model.
        precision: the precision of the spec.
        gpus: whether the job uses GPUs.
    """
    return base == "bfloat16" and (precision == "BFloat16" or (precision == "Auto" and gpus))


def find_weights_dtype(types: Iterable[str]) -> WeightsDtype:
    """Returns the data type of all floating point weights of a model; float32 if they have several.

    Args:
        types: data types of the weights in safetensors names.
    """
    found = {_NAMES[dtype] for dtype in types if dtype in _NAMES}
    return found.pop() if len(found) == 1 else "float32"


def warn_mixed(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str]) -> tuple[str, ...]:
    """Returns a warning if the weights of a model have several floating point data types.

    Args:
        shapes: shape of each weight by name.
        types: data type of each weight by name, in safetensors names.
    """
    counts: Counter[WeightsDtype] = Counter()
    for name, dtype in types.items():
        if dtype in _NAMES:
            counts[_NAMES[dtype]] += math.prod(shapes[name])
    if len(counts) < 2:  # noqa: PLR2004 - several
        return ()
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    several = f"The parameters of the model have several data types ({listed}), so the job uses float32"
    return (f"{several}. Save the model in one data type if the job needs too much memory",)
