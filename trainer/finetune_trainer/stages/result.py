"""What a stage returns: `run(config, paths, heartbeat) -> StageResult`."""

from dataclasses import dataclass

from finetune_trainer.contract import Payload


@dataclass(frozen=True)
class StageResult:
    """What a finished stage says; the payload only on global rank 0."""

    payload: Payload | None
    message: str
    """One sentence for people: what was reached."""
    step: int | None = None
    epoch: float | None = None
