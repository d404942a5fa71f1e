"""PURE: the effects of a training method on a model, and the warnings about these effects."""

from collections.abc import Iterator

from pydantic import NonNegativeInt, PositiveInt

from finetune_trainer.config import ALL_LINEAR, Lora, Method
from finetune_trainer.contract import Model
from finetune_trainer.data.findings import Finding, warning
from finetune_trainer.models.adapter_limits import list_unloadable


class MethodFacts(Model):
    """The effects of a training method on a model."""

    adapted: dict[str, PositiveInt] = {}
    """LoRA: number of adapted modules by the last part of the name, such as `q_proj`."""
    fused_experts: NonNegativeInt = 0
    """LoRA: number of parameters in fused expert weights (three dimensions), which no adapter changes."""
    output_frozen: bool = False
    """FreezeLayers: whether the output layer is tied to the token embeddings and therefore frozen."""

    @property
    def adapted_modules(self) -> str:
        """The adapted modules as text, such as `2 k_proj, 2 q_proj`."""
        return ", ".join(f"{count} {name}" for name, count in sorted(self.adapted.items()))


def list_limits(facts: MethodFacts, parameters: int) -> Iterator[tuple[str, str]]:
    """Yields the limits of a method: parts of the model that the method unexpectedly does not train.

    Args:
        facts: effects of the method.
        parameters: number of parameters of the whole model.

    Yields:
        A code in CamelCase and a sentence.
    """
    if facts.fused_experts:
        yield (
            "ExpertsNotAdapted",
            (
                "The experts are not adapted: transformers keeps them in fused weights"
                f" ({facts.fused_experts:,} of {parameters:,} parameters), and LoRA adapts linear layers."
                f" Adapted modules: {facts.adapted_modules}."
            ),
        )
    if facts.output_frozen:
        yield (
            "OutputFrozen",
            (
                "The output layer is not trained: it shares its weights with the token embeddings, which"
                " FreezeLayers freezes."
            ),
        )


def warn_limits(method: Method, facts: MethodFacts, parameters: int) -> list[Finding]:
    """Returns the limits as warnings of Prepare; no warnings if the job selects layers by name.

    Args:
        method: training method of the run.
        facts: effects of the method.
        parameters: number of parameters of the whole model.
    """
    asked = not isinstance(method, Lora) or ALL_LINEAR in method.target_modules
    return [warning(code, text) for code, text in list_limits(facts, parameters)] if asked else []


def warn_unloadable(method: Method) -> list[Finding]:
    """Returns a warning of Prepare if servers do not load the adapter that the job publishes.

    Args:
        method: training method of a language model.
    """
    if not isinstance(method, Lora) or method.merge or not (reasons := list(list_unloadable(method))):
        return []
    text = (
        f"vLLM and llama.cpp do not load the adapter of this job as it was trained: {'; '.join(reasons)}."
        " PEFT loads the adapter. To serve the tuned model, set output.mergeAdapter to true: the job then"
        " publishes a whole model."
    )
    return [warning("AdapterNotServable", text)]
