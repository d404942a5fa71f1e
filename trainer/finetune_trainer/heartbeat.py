"""The sign of life of a rank, as the stages see it."""

from collections.abc import Callable
from typing import Protocol

from finetune_trainer.contract import Activity


class Heartbeat(Protocol):
    """A rank's sign of life. Cheap: call it at every step."""

    def beat(self, activity: Activity, *, quiet_seconds: float | None = None, **progress: object) -> None:
        """Says what is being done now and how far it is.

        Args:
            activity: what is being done.
            quiet_seconds: how long the rank may be silent from here; the config's hang time-out if None.
            progress: fields of contract.Progress by their Python names; others keep their value.
        """

    @property
    def leave_requested(self) -> bool:
        """Whether this rank was asked (SIGUSR1) to save and leave at the next step edge."""


def beat_on_bytes(
    heartbeat: Heartbeat, activity: Activity, quiet_seconds: float | None = None
) -> Callable[[int], None]:
    """A callback for transfers: bytes that move are a sign of life.

    Args:
        heartbeat: of this rank.
        activity: what is being done during the transfer.
        quiet_seconds: how long the rank may be silent between two reports; None: the hang time-out of the
            config.
    """

    def on_bytes(_count: int) -> None:
        heartbeat.beat(activity, quiet_seconds=quiet_seconds)

    return on_bytes
