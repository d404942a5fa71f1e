"""spec.method: trains all weights, LoRA adapters, or the last layers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_operator.api.fields import rule, rules
from finetune_trainer.config import ALL_LINEAR, LoraInitialization, LoraQuantization, LoraScaling
from finetune_trainer.contract import Model

ModuleName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]
"""The end of the name of a layer."""
AddedToken = Annotated[str, Field(min_length=1, max_length=64, pattern=r"[^ \t\n\r\f\v]")]
"""A text with a character that is no whitespace."""


def module_names(at_most: int) -> Any:
    """Schema of a list of different names of layers."""
    return Field(min_length=1, max_length=at_most, json_schema_extra={"x-kubernetes-list-type": "set"})


class ModuleRankSpec(Model):
    """The rank of some of the layers that LoRA adapts."""

    modules: Annotated[list[ModuleName], module_names(8)]
    """Adapted layers, by the ends of their names."""
    rank: Annotated[int, Field(ge=1, le=1024)]
    """Inner size of the matrices of these layers, from 1 to 1024."""
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Scale of the matrices of these layers, from 1 to 4096, see lora.alpha. Default: twice the
    rank; 8 with scaling RankStabilized."""


class LoraSpec(Model):
    """Settings of LoRA, which trains small matrices beside the weights of linear layers."""

    model_config = rules(
        rule(
            f"size(self.targetModules) == 1 || !('{ALL_LINEAR}' in self.targetModules)",
            f"{ALL_LINEAR} in targetModules stands for every linear layer: name it alone, or layers",
            ".targetModules",
        ),
        rule(
            "self.quantization == 'None' || !self.weightDecomposition",
            "quantization NF4 does not work with weightDecomposition: set one of them",
            ".quantization",
        ),
        rule(
            "!has(self.addedTokens) || self.trainEmbeddings",
            "addedTokens is set, but trainEmbeddings is false: the model learns new tokens only with"
            " trainEmbeddings true",
            ".addedTokens",
        ),
    )

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Inner size of the matrices, from 1 to 1024. A higher rank learns more and needs more memory. Default:
    16."""
    alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Scale of the matrices, from 1 to 4096: the output of the matrices is multiplied by alpha / rank, or as
    scaling says. Default: twice the rank; 8 with scaling RankStabilized."""
    scaling: LoraScaling = "Standard"
    """Standard multiplies the output of the matrices by alpha / rank. RankStabilized multiplies by alpha /
    sqrt(rank) (arXiv 2312.03732), which keeps the size of the updates at high ranks. Default: Standard."""
    initialization: LoraInitialization = "Default"
    """Initial values of the matrices. Default starts with random matrices whose product is 0. PiSSA (arXiv
    2404.02948) starts with the principal components of each weight, and the published adapter has twice the
    rank. Default: Default."""
    weight_decomposition: bool = False
    """Whether the norm of each row of an adapted weight is trained apart from its direction (DoRA, arXiv
    2402.09353). DoRA needs more time and memory for each step. vLLM does not load such an adapter: see
    output.mergeAdapter. Default: false."""
    quantization: LoraQuantization = "None"
    """Data type of the adapted weights of the base model during training. NF4 keeps 4 bits of each weight
    (QLoRA, arXiv 2305.14314), for models that are too large otherwise. The adapter belongs to the base model
    as it is in model.uri: the job measures and merges with these weights. None keeps the weights as they are.
    Default: None."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of the inputs of the matrices that is dropped during training, from 0 to 0.9. Default: 0."""
    target_modules: Annotated[list[ModuleName], module_names(64)] = [ALL_LINEAR]
    """Linear layers that LoRA adapts, by the ends of their names, for example [query, value] or [q_proj,
    v_proj]. AllLinear stands for every linear layer below the head of the model. Default: [AllLinear]."""
    exclude_modules: Annotated[list[ModuleName], module_names(16)] | None = None
    """Linear layers that LoRA does not adapt although targetModules selects them, by the ends of their names,
    for example [mlp.gate]. Default: none."""
    module_ranks: Annotated[list[ModuleRankSpec], Field(min_length=1, max_length=8)] | None = None
    """Other ranks for some of the adapted layers; the first item that selects a layer applies. vLLM does not
    load such an adapter: see output.mergeAdapter. Default: all layers have the same rank."""
    train_embeddings: bool = False
    """Whether the token embeddings and the output layer are trained in full, for example for a new language.
    The adapter then contains these weights. vLLM does not load such an adapter: see output.mergeAdapter.
    Default: false."""
    added_tokens: (
        Annotated[
            list[AddedToken],
            Field(min_length=1, max_length=256, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Special tokens that the job adds to the tokenizer of the base model, for example ['<|ticket|>',
    '<|sql|>']. The tokenizer never splits these tokens. Each token that the vocabulary of the base model
    lacks gets a trained row in the token embeddings and in the output layer; the order of the tokens decides
    their ids. The tokenizer is published with the model. Only for the task TextGeneration; requires
    trainEmbeddings. Default: none."""


class FreezeLayersSpec(Model):
    """The layers that are trained. The embeddings and all earlier layers stay as they are."""

    train_last: Annotated[int, Field(ge=1, le=1024)]
    """Number of last layers that are trained, from 1 to 1024 and at most the number of layers of the model.
    All modules after these layers are trained too."""


class MethodSpec(Model):
    """The part of the model that is trained."""

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
    """Full trains every weight. LoRA trains small matrices beside the weights, for models that are too large
    for Full; the job publishes an adapter, or the whole model with output.mergeAdapter. FreezeLayers trains
    the last layers and the modules after them. A new head is always trained in full. Default: Full."""
    lora: LoraSpec | None = None
    """Settings of LoRA. Allowed only with type LoRA. Default with type LoRA: see each field."""
    freeze_layers: FreezeLayersSpec | None = None
    """The layers that are trained. Required with type FreezeLayers, and allowed only with type
    FreezeLayers."""
