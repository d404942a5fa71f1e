"""Stages, and how a trainer pod ends: failure classes and exit codes."""

from enum import IntEnum, StrEnum
from typing import Self


class Stage(StrEnum):
    """What a trainer pod was started for."""

    PREPARE = "Prepare"
    TRAIN = "Train"
    PUBLISH = "Publish"
    READBACK = "Readback"
    CLEANUP = "Cleanup"


class FailureClass(StrEnum):
    """Why a pod ended. A name, not a severity."""

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


class ExitCode(IntEnum):
    """Exit code of the supervisor, one per class."""

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
        """The exit code that stands for a class."""
        return cls[failure.name]

    @property
    def failure(self) -> FailureClass:
        """The class that this exit code stands for."""
        return FailureClass[self.name]
