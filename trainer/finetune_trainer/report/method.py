"""PURE: texts about the training method."""

from finetune_trainer.config import ALL_LINEAR, FreezeLayers, Lora, Method
from finetune_trainer.report.record import TrainingRecord


def describe_method(method: Method) -> str:
    """Returns a phrase for the method, which follows `fine-tuned`."""
    match method:
        case "Full":
            return "in full"
        case Lora():
            published = "merged into the base model's weights" if method.merge else "published as such"
            return f"with a LoRA adapter, {published},"
        case FreezeLayers():
            layers = "layer" if method.train_last == 1 else f"{method.train_last} layers"
            return f"in its last {layers}, all before them frozen,"


def describe_trained_weights(method: Method, record: TrainingRecord) -> str:
    """Describes the trained weights with their number."""
    number = record.trained_parameters or record.parameters
    share = f"{number:,} of {record.parameters:,} parameters ({number / record.parameters:.2%})"
    match method:
        case "Full":
            return f"every weight{_describe_head(record)}"
        case Lora():
            where = (
                f"the linear layers {record.method.adapted_modules}"
                if record.method.adapted
                else describe_targets(method)
            )
            return (
                f"LoRA of rank {method.rank}, alpha {method.alpha}, dropout {method.dropout:g}"
                f"{_describe_variant(method)} on {where}, and the head if there is a new one: {share}"
                f"{_describe_head(record)}"
            )
        case FreezeLayers():
            after = "" if record.method.output_frozen else " and what follows them"
            return f"the last {method.train_last} layers{after}: {share}{_describe_head(record)}"


def _describe_variant(method: Lora) -> str:
    """Describes the settings of LoRA that differ from the defaults."""
    parts = [
        f"rank {item.rank} and alpha {item.alpha} for {', '.join(item.modules)}"
        for item in method.module_ranks
    ]
    if method.scaling == "RankStabilized":
        parts.append("rank-stabilized scaling")
    if method.initialization == "PiSSA":
        parts.append("PiSSA")
    if method.weight_decomposition:
        parts.append("DoRA")
    if method.quantization == "NF4":
        parts.append("base weights in NF4 during training")
    if method.train_embeddings:
        parts.append("trained embeddings")
    if method.added_tokens:
        parts.append(f"{len(method.added_tokens)} added tokens")
    return f" ({'; '.join(parts)})" if parts else ""


def describe_targets(method: Lora) -> str:
    """Describes the target layers of the job, for records without counts of adapted modules."""
    if ALL_LINEAR in method.target_modules:
        return "all linear layers"
    return "the linear layers " + ", ".join(method.target_modules)


def _describe_head(record: TrainingRecord) -> str:
    """Describes the origin of the classification layer."""
    if record.head_kept is None:
        return ""
    if record.head_kept:
        return "; training began with the base model's class layer, since its class names are the same"
    return "; the class layer is new"


def needs_base(method: Method) -> bool:
    """Returns whether the published files require the base model."""
    return isinstance(method, Lora) and not method.merge
