"""What of the model is trained: every weight, small matrices beside them, or the last layers."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.fields import rule, rules
from finetune_trainer.config import ALL_LINEAR
from finetune_trainer.contract import Model


class LoraSpec(Model):
    """LoRA's small matrices beside the weights of linear layers."""

    model_config = rules(
        rule(
            f"size(self.targetModules) == 1 || !('{ALL_LINEAR}' in self.targetModules)",
            f"{ALL_LINEAR} in targetModules stands for every linear layer: name it alone, or layers",
            ".targetModules",
        )
    )

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Inner size of the matrices, 1 to 1024: higher learns more and needs more memory. Default 16."""
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """What the matrices add is scaled by alpha / rank, 1 to 4096. Default: twice the rank."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of the matrices' inputs that is dropped while training, 0 to 0.9. Default 0."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]],
        Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = [ALL_LINEAR]
    """Linear layers that are adapted, by the ends of their names, for example [query, value] or
    [q_proj, v_proj]. AllLinear: every one below the model's head. Default [AllLinear]."""


class FreezeLayersSpec(Model):
    """Which layers are trained; all before them, and the embeddings, stay as they are."""

    train_last: Annotated[int, Field(ge=1, le=1024)]
    """How many of the model's last layers are trained, with everything that follows them. At most as many as
    the model has."""


class MethodSpec(Model):
    """What of the model is trained."""

    model_config = rules(
        rule(
            "!has(self.lora) || self.type == 'LoRA'",
            "method.lora is set, but method.type is not LoRA: set it to LoRA, or leave lora out",
            ".lora",
        ),
        rule(
            "!has(self.freezeLayers) || self.type == 'FreezeLayers'",
            "method.freezeLayers is set, but method.type is not FreezeLayers: set it, or leave freezeLayers"
            " out",
            ".freezeLayers",
        ),
        rule(
            "has(self.freezeLayers) || self.type != 'FreezeLayers'",
            "method.type is FreezeLayers, but method.freezeLayers is not set: say how many layers to train,"
            " freezeLayers: {trainLast: ...}",
            ".freezeLayers",
        ),
    )

    type: Literal["Full", "LoRA", "FreezeLayers"] = "Full"
    """Full: every weight. LoRA: small matrices beside the weights, for models that are too large for Full;
    publishes an adapter, or the whole model with output.mergeAdapter. FreezeLayers: the last layers and what
    follows them. A new head is always trained in full. Default Full."""
    lora: LoraSpec | None = None
    """How LoRA is set up; only with type LoRA. Default: every field's default."""
    freeze_layers: FreezeLayersSpec | None = None
    """Which layers are trained; with type FreezeLayers, and only then."""
