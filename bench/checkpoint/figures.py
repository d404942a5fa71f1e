"""PURE. The measurements of one method, and what follows from them."""

from statistics import median

from pydantic import BaseModel

from finetune_trainer.checkpoints.interval import interval_seconds
from finetune_trainer.config import Checkpoints

CHECKPOINTS_PER_KILL = 10


class Killed(BaseModel, frozen=True):
    """A training pod whose rank was killed, and the next attempt."""

    recovery: float
    """Seconds from SIGKILL until a new pod has made a step; without the operator and the scheduler."""
    lost_steps: int
    """Steps after the checkpoint from which the new pod resumed."""


class Measured(BaseModel, frozen=True):
    """One method. Durations are in seconds."""

    method: str
    trained: int
    """Trained parameters."""
    size: int
    """Bytes of a checkpoint."""
    first_pause: float
    """Pause of the first checkpoint, which allocates the memory of the copy."""
    pause: tuple[float, ...]
    """Pauses of further checkpoints."""
    clone: tuple[float, ...]
    """Durations of a clone of the same tensors."""
    copy_again: tuple[float, ...]
    """Durations of a copy of the same tensors to memory that was used before."""
    plain: tuple[float, ...]
    """Durations of a checkpoint of the Trainer of transformers on the local disk."""
    plain_size: int
    """Bytes of a checkpoint of the Trainer of transformers."""
    upload: tuple[float, ...]
    """Durations of the upload of a checkpoint, with digests and manifest, while training waits."""
    clients: dict[str, tuple[float, ...]]
    """Durations of the upload of a file of the same size, by the name of the client."""
    load: tuple[float, ...]
    """Durations of a resume, from the listing of the checkpoints to the restored engine."""
    raw: tuple[float, ...]
    """Durations of the ranged reading of the same bytes."""
    step: float
    """Median duration of a step without an upload."""
    busy_steps: tuple[float, ...]
    """Durations of the steps during an upload."""
    killed: Killed

    @property
    def interval(self) -> float:
        """The default interval between two checkpoints."""
        return interval_seconds(Checkpoints(), median(self.pause), nodes=1)

    @property
    def pause_share(self) -> float:
        """Share of the training time at the default interval that is a pause."""
        return median(self.pause) / (self.interval + median(self.pause))

    @property
    def fastest_client(self) -> str:
        """Name of the client with the shortest upload."""
        return min(self.clients, key=lambda name: median(self.clients[name]))

    @property
    def upload_ratio(self) -> float:
        """Rate of the upload of a checkpoint to the rate of the fastest client."""
        return median(self.clients[self.fastest_client]) / median(self.upload)

    @property
    def slowdown(self) -> float:
        """Time by which the upload of one checkpoint delays training."""
        return max(0.0, sum(self.busy_steps) - self.step * len(self.busy_steps))

    def goodput(self, lost: float) -> float:
        """Share of useful step time, with a kill after each tenth checkpoint at the default interval.

        Args:
            lost: training time that is lost with each kill.
        """
        trained = CHECKPOINTS_PER_KILL * self.interval
        delayed = CHECKPOINTS_PER_KILL * self.slowdown
        whole = trained + CHECKPOINTS_PER_KILL * median(self.pause) + self.killed.recovery
        return (trained - delayed - lost) / whole

    @property
    def goodput_after_a_checkpoint(self) -> float:
        """Goodput if the kill comes as soon as the tenth checkpoint is complete."""
        return self.goodput(sum(self.busy_steps))

    @property
    def goodput_between_checkpoints(self) -> float:
        """Goodput if the kill comes in the middle between two checkpoints."""
        return self.goodput(self.interval / 2)


def ratio(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """The median of the ratios of measurements that alternate."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))
