"""The heartbeat of a rank, as the stages see it."""

from collections.abc import Callable
from typing import Protocol

from finetune_trainer.contract import Activity


class Heartbeat(Protocol):
    """The heartbeat of a rank. Most calls take microseconds, so that every training step can call `beat`."""

    def beat(self, activity: Activity, *, quiet_seconds: float | None = None, **progress: object) -> None:
        """Records a heartbeat, the current activity and the progress.

        Args:
            activity: the current activity.
            quiet_seconds: time in seconds until the next heartbeat, after which the rank hangs; None for the
                hang time-out of the config.
            progress: fields of contract.Progress by their Python names, and `checkpoint` of
                contract.RankFile; other fields keep their values.
        """

    @property
    def leave_requested(self) -> bool:
        """Whether this rank has received SIGUSR1, the request to end after the current step."""


def beat_on_bytes(
    heartbeat: Heartbeat, activity: Activity, quiet_seconds: float | None = None
) -> Callable[[int], None]:
    """Returns a callback that records a heartbeat whenever a transfer reports bytes.

    Args:
        heartbeat: the heartbeat of this rank.
        activity: the activity during the transfer.
        quiet_seconds: time in seconds until the next report, after which the rank hangs; None for the hang
            time-out of the config.

    Returns:
        A function of the number of transferred bytes.
    """

    def on_bytes(_count: int) -> None:
        heartbeat.beat(activity, quiet_seconds=quiet_seconds)

    return on_bytes
