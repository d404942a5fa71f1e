"""The result of a stage: `run(config, paths, heartbeat) -> StageResult`."""

from dataclasses import dataclass

from finetune_trainer.contract import Payload


@dataclass(frozen=True)
class StageResult:
    """The result of a finished stage."""

    payload: Payload | None
    """None except on global rank 0."""
    message: str
    """Summary of the result in a sentence."""
    step: int | None = None
    epoch: float | None = None
