"""The one exception that a stage ends with on purpose."""

from finetune_trainer.contract import FailureClass


class StageFailure(Exception):  # noqa: N818 - the contract calls it a failure
    """A stage cannot go on, for a reason that somebody can act on.

    Args:
        failure: the class, which decides the exit code and whether a new attempt may help.
        reason: CamelCase, stable, at most 64 characters; documented in docs/reasons.md.
        message: one or two sentences that name the field or file, the value and what is wrong.
        hint: the way out.
    """

    def __init__(self, failure: FailureClass, reason: str, message: str, hint: str = "") -> None:
        super().__init__(f"{reason}: {message}")
        self.failure = failure
        self.reason = reason
        self.message = message
        self.hint = hint
