"""The exception with which a stage reports a failure."""

from finetune_trainer.contract import FailureClass


class StageFailure(Exception):  # noqa: N818 - the contract calls it a failure
    """A stage cannot continue, for a known reason.

    Args:
        failure: the failure class, which decides the exit code and whether the operator starts a new attempt.
        reason: stable CamelCase word of at most 64 characters, documented in docs/reasons.md.
        message: one or two sentences that name the field or file, the value and the error.
        hint: what the user can do.
    """

    def __init__(self, failure: FailureClass, reason: str, message: str, hint: str = "") -> None:
        super().__init__(f"{reason}: {message}")
        self.failure = failure
        self.reason = reason
        self.message = message
        self.hint = hint
