"""PURE. Decides when the next checkpoint is due.

The interval `Auto` is the optimum of Young: sqrt(2 * copy * mean time between failures), where `copy` is
the time in which the state is copied to host memory, because the upload does not pause training. Sources:
J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974;
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
Computer Systems 22(3), 2006.
"""

import math

from finetune_trainer.config import Checkpoints

NODE_SECONDS_BETWEEN_FAILURES = 24 * 3600.0
"""Assumed mean time between two unplanned ends of a node. A planned end (SIGTERM) saves a checkpoint."""
LEAST_SECONDS, MOST_SECONDS = 60.0, 3600.0
"""Bounds of the interval `Auto`."""


def interval_seconds(checkpoints: Checkpoints, copy: float | None, nodes: int) -> float:
    """The time between two checkpoints, in seconds.

    Args:
        checkpoints: the settings of the job.
        copy: duration in seconds of the copy of the last checkpoint to host memory, without the wait for an
            earlier upload; None before the first checkpoint, whose interval `Auto` is the shortest.
        nodes: number of nodes of the gang, each of which can end the attempt.
    """
    if checkpoints.every_seconds != "Auto":
        return float(checkpoints.every_seconds)
    if copy is None:
        return LEAST_SECONDS
    optimum = math.sqrt(2 * copy * NODE_SECONDS_BETWEEN_FAILURES / nodes)
    return min(max(optimum, LEAST_SECONDS), MOST_SECONDS)
