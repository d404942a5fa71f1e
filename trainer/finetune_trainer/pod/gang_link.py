"""IO: the reports and orders by which the supervisors of a gang restart their ranks in place; see `gang`.

The supervisor with index 0 answers reports at its HTTP endpoint. Every report and every answer is signed with
the progress key, which only the pods of the Job and the operator have.
"""

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from finetune_trainer.contract import signatures
from finetune_trainer.pod.gang import Answer, Gang, Order, Report, answer_of, expire, receive

PATH = "/gang"
"""Path of the endpoint of index 0 to which the other supervisors send their reports."""
REPORT_SECONDS = 1.0
"""Time between two reports of a pod."""
PODS_PER_SECOND = 128
"""Maximum reports per second that index 0 receives; in larger gangs, each pod reports less often."""
_TIMEOUT_SECONDS = 3.0
"""Time limit for the connection, and for each read."""
_LAST_ANSWERS_SECONDS = 3.0
"""Time for the other pods to learn that the gang has given up, before index 0 ends."""
_JITTER = (0.8, 1.2)
"""Bounds of the random factor of the time between two reports: the pods do not report all at once."""
_MAX_ANSWER_BYTES = 8 * 1024

log = logging.getLogger(__name__)


class Link(Protocol):
    """The connection of a supervisor to the supervisor with index 0."""

    def report(self, report: Report) -> None:
        """Reports the state of this pod. The report is repeated until the next report replaces it."""

    @property
    def answer(self) -> Answer | None:
        """The latest answer; None if there is none."""

    @property
    def answer_time(self) -> float:
        """Time of the latest answer, in seconds of a monotonic clock."""

    def close(self) -> None:
        """Delivers the last report, and ends the connection."""


class Coordinator:
    """The link of the supervisor with index 0, which keeps the state of the gang. Thread-safe.

    Args:
        pods: number of pods of the gang.
        limit: maximum number of restarts in place.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(self, pods: int, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._gang = Gang(pods, limit)
        self._clock = clock
        self._lock = threading.Lock()
        self._told: set[int] = set()
        """The other pods that know that the gang has given up."""
        self._all_told = threading.Event()

    def report(self, report: Report) -> None:
        """See Link."""
        self._receive(report)

    @property
    def answer(self) -> Answer:
        """See Link."""
        with self._lock:
            self._set(expire(self._gang, self._clock()))
            return answer_of(self._gang)

    @property
    def answer_time(self) -> float:
        """See Link."""
        return self._clock()

    def serve(self, body: bytes) -> bytes:
        """Receives the report of another pod, and returns the answer.

        Args:
            body: the report as JSON.

        Raises:
            ValueError: the report is malformed.
        """
        report = Report.model_validate_json(body)
        answer = self._receive(report)
        if answer.order is Order.GIVE_UP:
            self._told.add(report.index)
            if len(self._told) >= self._gang.pods - 1:
                self._all_told.set()
        return answer.model_dump_json(by_alias=True, exclude_none=True).encode()

    def close(self) -> None:
        """Waits until the other pods know that the gang has given up, at most _LAST_ANSWERS_SECONDS."""
        if self._gang.pods > 1 and self._gang.limit and self.answer.order is Order.GIVE_UP:
            self._all_told.wait(_LAST_ANSWERS_SECONDS)

    def _receive(self, report: Report) -> Answer:
        with self._lock:
            self._set(receive(self._gang, report, self._clock()))
            return answer_of(self._gang)

    def _set(self, gang: Gang) -> None:
        before, self._gang = self._gang, gang
        if (gang.round, gang.order) != (before.round, before.order):
            log.info("round %d of the gang: %s %s", gang.round, gang.order, gang.why)


class Member:
    """The link of a supervisor with another index: a thread that sends reports to index 0.

    Args:
        host: name of the pod with index 0.
        port: port of the endpoint of index 0.
        key: key of the signatures.
        pods: number of pods of the gang.
        first: the first report.
    """

    def __init__(self, host: str, port: int, key: str, pods: int, first: Report) -> None:
        self._host, self._port, self._key = host, port, key
        self._interval = max(REPORT_SECONDS, pods / PODS_PER_SECOND)
        self._report = first
        self._answer: Answer | None = None
        self._answer_time = time.monotonic()
        self._address: str | None = None
        """Address of index 0; None before the first answer and after an error."""
        self._changed = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="gang", daemon=True)
        self._thread.start()

    def report(self, report: Report) -> None:
        """See Link."""
        if report != self._report:
            self._report = report
            self._changed.set()

    @property
    def answer(self) -> Answer | None:
        """See Link."""
        return self._answer

    @property
    def answer_time(self) -> float:
        """See Link."""
        return self._answer_time

    def close(self) -> None:
        """See Link."""
        self._closing = True
        self._changed.set()
        self._thread.join(_TIMEOUT_SECONDS)

    def _run(self) -> None:
        while True:
            self._changed.clear()
            closing = self._closing
            self._exchange()
            if closing:
                return
            self._changed.wait(self._interval * random.uniform(*_JITTER))  # noqa: S311 - no secret

    def _exchange(self) -> None:
        try:
            answer = self._send(self._report)
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.debug("index 0 of the gang does not answer: %s", error)
            self._address = None
            return
        self._answer, self._answer_time = answer, time.monotonic()

    def _send(self, report: Report) -> Answer:
        """Sends one report.

        Raises:
            OSError, HTTPException, ValueError: there is no answer, or no valid answer.
        """
        nonce, body = (
            signatures.draw_nonce(),
            report.model_dump_json(by_alias=True, exclude_none=True).encode(),
        )
        headers = {
            signatures.NONCE_HEADER: nonce,
            signatures.SIGNATURE_HEADER: signatures.sign_report(self._key, nonce, body),
        }
        # The timeout does not cover the resolution of a name.
        link = http.client.HTTPConnection(self._address or self._host, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            link.connect()
            address = link.sock.getpeername()[0]
            link.request("POST", PATH, body, headers)
            response = link.getresponse()
            data = response.read(_MAX_ANSWER_BYTES)
            signature = response.headers.get(signatures.SIGNATURE_HEADER, "")
        finally:
            link.close()
        if not signatures.is_valid(signature, signatures.sign_order(self._key, nonce, data)):
            raise ValueError(f"HTTP status {response.status} without a valid signature")
        answer = Answer.model_validate_json(data)
        self._address = address
        return answer
