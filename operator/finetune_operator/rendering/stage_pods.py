"""The facts about each stage that Jobs and pods are rendered from. Pure."""

from dataclasses import dataclass

from finetune_trainer import config as trainer
from finetune_trainer.contract import Stage


@dataclass(frozen=True)
class StagePods:
    """The pods of a stage. `planning.stages` holds the other facts about the stages of a run."""

    letter: str
    """The letter of the stage in the names of its Jobs; the letters of all stages differ."""
    store_roles: tuple[trainer.StoreRole, ...]
    """The store roles whose keys the pods get."""
    is_gang: bool = False
    """Whether the Job has one pod for each node, with the GPUs and the resources for training."""
    store_only: bool = False
    """Whether the pods only read and delete objects in the store: they run the slim image, and request few
    resources, so that they fit on a full node."""


STAGE_PODS = {
    Stage.PREPARE: StagePods("p", ("data", "model", "output")),
    Stage.TRAIN: StagePods("t", ("model", "output"), is_gang=True),
    Stage.PUBLISH: StagePods("u", ("model", "output")),
    Stage.READBACK: StagePods("r", ("output",), store_only=True),
    Stage.CLEANUP: StagePods("c", ("output",), store_only=True),
}
"""One row for each Stage of the contract."""
