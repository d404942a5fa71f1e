"""IO: the part of one supervisor in the restarts of its gang; `gang` decides, `gang_link` communicates."""

import time

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import FailureClass, InPlaceRestarts, Stage
from finetune_trainer.pod.classify import Verdict
from finetune_trainer.pod.gang import End, Failed, Report, Step, can_recover, must_stop, next_step
from finetune_trainer.pod.gang_link import Coordinator, Link, Member
from finetune_trainer.pod.termination import Reached


class Recovery:
    """The current round of a pod, and its reports and orders.

    Args:
        link: the connection to the supervisor with index 0.
        index: index of this pod in its gang.
    """

    def __init__(self, link: Link, index: int) -> None:
        self.link = link
        self.round = 0
        """Number of restarts in place of the attempt so far."""
        self._index = index
        self._report = Report(index=index, round=0)
        self._ended_at = 0.0

    @property
    def restarts(self) -> InPlaceRestarts | None:
        """The restarts in place so far; None if there was none."""
        answer = self.link.answer
        return answer.restarts if answer else None

    @property
    def failed_peer(self) -> Failed | None:
        """The other pod whose failure requires that this pod ends its ranks; None if the ranks may go on."""
        answer = self.link.answer
        return answer.failed if answer and must_stop(self.round, answer) else None

    @property
    def next_step(self) -> Step:
        """What this pod does after the end of its ranks."""
        if not self._report.recoverable:
            return Step.LEAVE
        silent = time.monotonic() - max(self._ended_at, self.link.answer_time)
        return next_step(self.round, self.link.answer, silent)

    def leave(self) -> None:
        """Reports that this pod no longer restarts in place, for example after SIGTERM."""
        self._send(self._report.model_copy(update={"recoverable": False}))

    def end(self, verdict: Verdict, reached: Reached, *, lost_steps: int, stuck: bool) -> None:
        """Reports the end of the ranks of this pod.

        Args:
            verdict: the cause of the end.
            reached: what the ranks of this pod reached in the attempt.
            lost_steps: optimizer steps after the newest checkpoint.
            stuck: whether a process did not end after SIGKILL.
        """
        self._ended_at = time.monotonic()
        can = can_recover(verdict.failure, verdict.reason) and not stuck
        self._send(
            Report(
                index=self._index,
                round=self.round,
                recoverable=self._report.recoverable and can,
                end=End(
                    failure=verdict.failure,
                    reason=verdict.reason,
                    lost_steps=lost_steps,
                    step=reached.step or 0,
                    checkpoint_step=reached.checkpoint.step if reached.checkpoint else 0,
                ),
            )
        )

    def start(self) -> None:
        """Begins the next round."""
        answer = self.link.answer
        if answer is None:
            raise AssertionError("only an answer begins a round")
        self.round = answer.round
        self._send(Report(index=self._index, round=self.round))

    def close(self) -> None:
        """Reports that this pod ends. Delivers the last report or the last answers, within seconds."""
        self.leave()
        self.link.close()

    def _send(self, report: Report) -> None:
        self._report = report
        self.link.report(report)


def open_recovery(config: TrainConfig, index: int, port: int, key: str) -> Recovery:
    """Joins the supervisors of the gang. A gang of one pod, and a pod that never restarts, need no network.

    Args:
        config: the configuration of the trainer.
        index: index of this pod in its gang.
        port: port of the HTTP endpoint of the pod with index 0.
        key: the progress key.
    """
    limit = (config.in_place_restarts or 0) if config.stage is Stage.TRAIN else 0
    pods = config.world.nodes if limit else 1
    if pods == 1 or index == 0:
        return Recovery(Coordinator(pods, limit), 0)
    first = Report(index=index, round=0)
    return Recovery(Member(config.rendezvous.master_address, port, key, pods, first), index)


PREEMPTED = Verdict(
    FailureClass.PREEMPTED,
    "Preempted",
    "The pod received SIGTERM while its gang restarted in place.",
)
"""The verdict on a pod that has lost its peers and receives SIGTERM between two rounds."""
