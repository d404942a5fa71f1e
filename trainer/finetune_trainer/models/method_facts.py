"""PURE: what a training method changed in a model, read from the model itself."""

from collections.abc import Iterator

from pydantic import NonNegativeInt, PositiveInt

from finetune_trainer.config import ALL_LINEAR, Lora, Method
from finetune_trainer.contract import Model
from finetune_trainer.data.findings import Finding, warning


class MethodFacts(Model):
    """What a method did to a model."""

    adapted: dict[str, PositiveInt] = {}
    """LoRA: the last part of the names of the adapted modules, such as `q_proj`, and how many have it."""
    fused_experts: NonNegativeInt = 0
    """LoRA: parameters of experts that transformers keeps in one three-dimensional weight, which no adapter
    changes."""
    output_frozen: bool = False
    """FreezeLayers: the output layer is the token embedding, and is frozen with it."""

    @property
    def adapted_modules(self) -> str:
        """The adapted modules for people, such as `2 k_proj, 2 q_proj`."""
        return ", ".join(f"{count} {name}" for name, count in sorted(self.adapted.items()))


def limits(facts: MethodFacts, parameters: int) -> Iterator[tuple[str, str]]:
    """What the method leaves unchanged although its name suggests otherwise.

    Args:
        facts: of the method.
        parameters: of the whole model.

    Yields:
        A CamelCase code and a sentence.
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


def warnings(method: Method, facts: MethodFacts, parameters: int) -> list[Finding]:
    """The same as findings of Prepare; nobody is warned of layers that a job did not ask for."""
    asked = not isinstance(method, Lora) or ALL_LINEAR in method.target_modules
    return [warning(code, text) for code, text in limits(facts, parameters)] if asked else []
