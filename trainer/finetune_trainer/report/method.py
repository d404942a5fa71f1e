"""Texts about the training method. Pure."""

from finetune_trainer.config import ALL_LINEAR, FreezeLayers, Lora, Method
from finetune_trainer.report.record import TrainingRecord


def tuned_how(method: Method) -> str:
    """How it was tuned, in a few words after `fine-tuned`."""
    match method:
        case "Full":
            return "in full"
        case Lora():
            published = "merged into the base model's weights" if method.merge else "published as such"
            return f"with a LoRA adapter, {published},"
        case FreezeLayers():
            layers = "layer" if method.train_last == 1 else f"{method.train_last} layers"
            return f"in its last {layers}, all before them frozen,"


def trained(method: Method, record: TrainingRecord) -> str:
    """What was trained, in figures."""
    number = record.trained_parameters or record.parameters
    share = f"{number:,} of {record.parameters:,} parameters ({number / record.parameters:.2%})"
    match method:
        case "Full":
            return f"every weight{_head(record)}"
        case Lora():
            where = (
                f"the linear layers {record.method.adapted_modules}"
                if record.method.adapted
                else asked(method)
            )
            return (
                f"LoRA of rank {method.rank}, alpha {method.alpha}, dropout {method.dropout:g} on {where},"
                f" and the head if there is a new one: {share}{_head(record)}"
            )
        case FreezeLayers():
            after = "" if record.method.output_frozen else " and what follows them"
            return f"the last {method.train_last} layers{after}: {share}{_head(record)}"


def asked(method: Lora) -> str:
    """The layers that the job names; for records of releases that did not count the adapted modules."""
    if ALL_LINEAR in method.target_modules:
        return "all linear layers"
    return "the linear layers " + ", ".join(method.target_modules)


def _head(record: TrainingRecord) -> str:
    """Where the class layer comes from."""
    if record.head_kept is None:
        return ""
    if record.head_kept:
        return "; training began with the base model's class layer, since its class names are the same"
    return "; the class layer is new"


def needs_base(method: Method) -> bool:
    """Whether what is published works only together with the base model."""
    return isinstance(method, Lora) and not method.merge
