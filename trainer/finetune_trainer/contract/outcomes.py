"""Stages, failure classes and exit codes of trainer pods."""

from enum import IntEnum, StrEnum
from typing import Self


class Stage(StrEnum):
    """The stage that a trainer pod runs."""

    PREPARE = "Prepare"
    TRAIN = "Train"
    PUBLISH = "Publish"
    READBACK = "Readback"
    CLEANUP = "Cleanup"


class FailureClass(StrEnum):
    """The class of the end of a pod. The order of the classes is no order of severity."""

    SUCCESS = "Success"
    USER_CONFIG = "UserConfig"
    USER_DATA = "UserData"
    OUT_OF_MEMORY = "OutOfMemory"
    STORAGE = "Storage"
    NUMERICAL = "Numerical"
    COMMUNICATION = "Communication"
    PREEMPTED = "Preempted"
    HANG = "Hang"
    INTERNAL = "Internal"


EXTERNAL_CAUSES = frozenset({"RankKilled"})
"""Reasons of the class Internal that somebody outside the trainer causes."""


class ExitCode(IntEnum):
    """The exit code of the supervisor for each failure class."""

    SUCCESS = 0
    USER_CONFIG = 2
    USER_DATA = 3
    OUT_OF_MEMORY = 4
    STORAGE = 5
    NUMERICAL = 6
    COMMUNICATION = 7
    PREEMPTED = 8
    HANG = 9
    INTERNAL = 10

    @classmethod
    def of(cls, failure: FailureClass) -> Self:
        """The exit code of a failure class."""
        return cls[failure.name]

    @property
    def failure(self) -> FailureClass:
        """The failure class of this exit code."""
        return FailureClass[self.name]
