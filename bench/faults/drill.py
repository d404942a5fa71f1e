"""A training with faults: its attempts, what each fault costs, and the checks after the last attempt."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.faults.results import Result, differences, read_result
from bench.faults.scenarios import Scenario
from bench.pods import Pod, Site, succeed, train
from devcluster.places import DevclusterError
from finetune_trainer.checkpoints.listing import Listing, all_checkpoints, list_checkpoints
from finetune_trainer.checkpoints.retention import newest_first, step_of
from finetune_trainer.config import Checkpoints, TrainConfig, World
from finetune_trainer.contract import ExitCode, FailureClass, RankFile, Stage, TerminationMessage
from finetune_trainer.s3.store import Store
from tests.trainer.storeproxy import StoreProxy

_WAIT_SECONDS = 120.0
_LOOK_SECONDS = 0.01
_SECONDS_BETWEEN_CHECKPOINTS = 1


@dataclass
class Account:
    """The costs of the faults, and what went wrong."""

    outcomes: list[str] = field(default_factory=list)
    """How each ended attempt ended."""
    seconds: float = 0.0
    """Longest time from a fault to the next optimizer step."""
    lost: int = 0
    """Steps that were made again."""
    problems: list[str] = field(default_factory=list)


class Drill:
    """One training with faults.

    Args:
        site: the S3 server, behind the proxy.
        proxy: the proxy.
        scenario: the training.
        config: the config of Train.
    """

    def __init__(self, site: Site, proxy: StoreProxy, scenario: Scenario, config: TrainConfig) -> None:
        self.site, self.proxy, self.scenario, self.config = site, proxy, scenario, config
        self.store: Store = site.store()
        self.account = Account()
        self.attempt = 0
        self.struck = self.started = 0.0
        """Time of the last fault and of the start of the last attempt, in seconds of a monotonic clock."""
        self._pod: Pod | None = None
        self._reached = 0
        self._expected: int | None = None
        """Step from which the current attempt must resume; None: any, or the step was checked already."""

    def start(self) -> Pod:
        """Starts the next attempt."""
        self.attempt += 1
        self.started = time.monotonic()
        ranks = self.scenario.ranks_of(self.attempt)
        config, chosen = self.config, self.config.chosen
        assert chosen is not None  # noqa: S101 - the config of Train
        micro_batches = chosen.batch_size // (ranks * (chosen.micro_batch_size or 1))
        config = config.model_copy(
            update={
                "run": config.run.model_copy(update={"world": World(processes_per_node=ranks)}),
                "chosen": chosen.model_copy(
                    update={"world_size": ranks, "accumulation_steps": micro_batches}
                ),
                "checkpoints": Checkpoints(every_seconds=_SECONDS_BETWEEN_CHECKPOINTS),
            }
        )
        # One thread for each rank: sums have the same order in all attempts.
        self._pod = train(self.site, config, self.attempt, OMP_NUM_THREADS="1")
        return self._pod

    def close(self) -> None:
        """Ends the current attempt, if the drill has failed."""
        if self._pod and self._pod.running:
            self._pod.remove()

    def start_training(self) -> Pod:
        """Starts an attempt, and waits until it has made steps after a new checkpoint."""
        pod = self.start()
        pod.await_rank(_is_between_checkpoints)
        return pod

    def time_to_training(self, pod: Pod) -> float:
        """Waits for the first step of an attempt. Returns the seconds since the start of the attempt."""
        pod.await_rank(_has_stepped_or_ended)
        return time.monotonic() - self.started

    @property
    def last_rank(self) -> int:
        """Global rank of the last process of the current attempt."""
        return self.scenario.ranks_of(self.attempt) - 1

    def strike(self, act: Callable[[], object]) -> None:
        """Injects a fault, and begins to measure the time to the next step."""
        act()
        self.struck = time.monotonic()

    def kill_rank(self, pod: Pod) -> None:
        """Kills the last rank."""
        file = pod.await_rank(lambda _: True, self.last_rank)
        self.strike(lambda: os.kill(file.pid, signal.SIGKILL))

    def terminate(self, pod: Pod) -> None:
        """Sends SIGTERM to the pod, and waits until the supervisor has received the signal."""
        self.strike(lambda: pod.signal(signal.SIGTERM))
        self.until(lambda: b"received SIGTERM" in pod.log.read_bytes() or not pod.running)

    def listing(self) -> Listing:
        """The folders of checkpoints."""
        roots = {uri.rsplit("/", 2)[0] for uri in self.objects()}
        if not roots:
            return Listing(frozenset(), frozenset())
        (root,) = roots
        return list_checkpoints(self.store, f"{root}/")

    def objects(self) -> list[str]:
        """URIs of all objects of checkpoints."""
        return [entry.uri for entry in self.store.list(all_checkpoints(self.config.run.runs))]

    def end(self, pod: Pod, *, planned: bool = False, damaged: int = 0) -> None:
        """Waits for the end of an attempt, and keeps the step from which the next attempt must resume.

        Args:
            pod: the attempt.
            planned: whether the attempt must end as Preempted, without lost steps.
            damaged: number of the newest checkpoints that the caller damages.
        """
        pod.await_end()
        if file := pod.rank_file():
            self._check_resumed(file)
            self._reached = self._reached if file.step is None else file.step
        code = pod.process.returncode
        self.account.outcomes.append(_outcome_of(pod))
        # A stage whose result is stored already ends with success.
        if planned and code not in {ExitCode.SUCCESS, ExitCode.of(FailureClass.PREEMPTED)}:
            self.account.problems.append(f"attempt {self.attempt} ended with code {code} after SIGTERM")
        complete = newest_first(self.listing().complete)
        self._expected = step_of(complete[damaged]) if len(complete) > damaged else 0
        if planned and self._expected < self._reached:
            self.account.problems.append(
                f"attempt {self.attempt} saved step {self._expected}, and reached step {self._reached}"
            )
        pod.remove()

    def resume(self) -> Pod:
        """Starts the next attempt, and measures the time to its first step."""
        pod = self.start()
        self.await_step(pod)
        return pod

    def await_step(self, pod: Pod) -> None:
        """Waits for the first step of an attempt, and measures the time since the last fault."""
        file = pod.await_rank(_has_stepped_or_ended)
        self.account.seconds = max(self.account.seconds, time.monotonic() - self.struck)
        self._check_resumed(file)
        self.account.outcomes.append(f"resumed at step {file.resumed_from_step or 0}")

    def _check_resumed(self, file: RankFile) -> None:
        """Compares the step from which an attempt resumed with the newest complete checkpoint."""
        resumed, expected = file.resumed_from_step, self._expected
        if expected is None or (resumed is None and file.step is None):
            return
        self._expected = None
        self.account.lost += max(0, self._reached - (resumed or 0))
        if resumed != (expected or None):
            text = f"attempt {self.attempt} resumed at step {resumed} instead of {expected}"
            self.account.problems.append(text)

    def finish(self, pod: Pod, expected: Result) -> None:
        """Waits for the success, compares the result, runs Cleanup, and counts what is left in the bucket.

        Args:
            pod: the last attempt.
            expected: the result without faults.
        """
        message = succeed(pod)
        pod.remove()
        found = read_result(self.store, message)
        self.account.problems += differences(found, expected, same_world=self.scenario.same_world)
        self.clean()

    def clean(self) -> None:
        """Runs Cleanup, and records the objects and uploads that are left."""
        runs = self.config.run.runs
        update = {"stage": Stage.CLEANUP, "chosen": None, "prepared": None, "checkpoints": None}
        pod = Pod(self.site, f"{self.config.job.name}-cleanup", self.config.model_copy(update=update))
        succeed(pod)
        pod.remove()
        if left := len(self.store.list(runs)):
            self.account.problems.append(f"{left} objects are left after Cleanup")
        if uploads := self.store.abort_uploads(runs):
            self.account.problems.append(f"{uploads} unfinished uploads are left after Cleanup")

    def until(self, holds: Callable[[], object]) -> None:
        """Waits for a condition.

        Raises:
            DevclusterError: the condition was not met in time.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise DevclusterError("a condition was not met in time")
            time.sleep(_LOOK_SECONDS)


def run_reference(drill: Drill) -> TerminationMessage:
    """Runs the training without faults, with the world size of the first attempt."""
    pod = drill.start()
    message = succeed(pod)
    pod.remove()
    return message


def _is_between_checkpoints(file: RankFile) -> bool:
    """Whether the rank has made steps after a checkpoint of this attempt was complete."""
    if file.checkpoint is None or file.step is None:
        return False
    return file.step > file.checkpoint.step > (file.resumed_from_step or 0)


def _has_stepped_or_ended(file: RankFile) -> bool:
    if file.ended:
        return True
    return file.step is not None and file.step > (file.resumed_from_step or 0)


def _outcome_of(pod: Pod) -> str:
    """The reason of the end of a pod, or the exit code if the pod left no message."""
    message = pod.await_end()
    return message.reason if message else f"exit code {pod.process.returncode}"
