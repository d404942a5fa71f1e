"""Leader election with a coordination.k8s.io/Lease: one replica works, the others wait.

The election compares durations on one machine, never the clocks of two machines: a candidate waits the whole
lease duration after it last saw the Lease change, and the leader counts from before it sent the renewal. (The
election of the client library compares wall clocks and does not release the Lease at the end.)
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from finetune_operator.objects import Manifest
from finetune_operator.runtime import metrics
from finetune_operator.runtime.api_client import (
    ApiError,
    ConflictError,
    ExistsError,
    LeaseLostError,
    MissingError,
)
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.settings import LEASE_MARGIN_SECONDS, Lease

CHECK_SECONDS = 2.0
"""Interval between two reads of the Lease by a candidate."""
RETRY_SECONDS = 1.0
LOG_INTERVAL_SECONDS = 60.0
"""Interval between two log lines about the same error."""
log = logging.getLogger(__name__)


@dataclass
class Leadership:
    """The leadership of one replica."""

    cluster: Cluster
    namespace: str
    settings: Lease
    identity: str = field(
        default_factory=lambda: f"{os.environ.get('POD_NAME', socket.gethostname())}_{uuid.uuid4()}"
    )
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    tried_at: float = 0.0
    """Time of the last try to read or renew the Lease; a replica that does not try is unhealthy."""
    _held_until: float = 0.0
    _lease: Manifest = field(default_factory=dict)

    def seconds_left(self) -> float:
        """Seconds that this replica may still act as the leader; 0 or less: not at all."""
        return self._held_until - LEASE_MARGIN_SECONDS - self.clock()

    async def acquire(self) -> None:
        """Waits until this replica leads."""
        seen: Any = None
        seen_at = self.clock()
        logged, logged_at = "", 0.0
        while True:
            self.tried_at = self.clock()
            try:
                self._lease = await self.cluster.lease(
                    self.namespace, self.settings.name, self.settings.renew_seconds
                )
            except MissingError:
                self._lease = self._new()
            except ApiError as error:
                if str(error) != logged or self.clock() - logged_at >= LOG_INTERVAL_SECONDS:
                    logged, logged_at = str(error), self.clock()
                    log.warning("%s; looking again every %.0f s", error, CHECK_SECONDS)
                await self.sleep(CHECK_SECONDS)
                continue
            spec = self._lease["spec"]
            if (mark := (spec.get("holderIdentity"), spec.get("renewTime"))) != seen:
                seen, seen_at = mark, self.clock()
            duration = spec.get("leaseDurationSeconds") or self.settings.duration_seconds
            wait = seen_at + duration - self.clock()
            if not spec.get("holderIdentity") or wait <= 0:
                if await self._write_as_holder():
                    log.info("this replica leads: %s", self.identity)
                    metrics.LEADER.set(1)
                    return
                wait = RETRY_SECONDS
            await self.sleep(max(0.02, min(wait, CHECK_SECONDS)))

    async def keep(self) -> None:
        """Renews the Lease until it is lost.

        Raises:
            LeaseLostError: another replica leads, or may lead soon.
        """
        wait = float(self.settings.renew_seconds)
        while True:
            await self.sleep(min(wait, max(0.0, self.seconds_left())))
            self.tried_at = self.clock()
            left = self.seconds_left()
            if left <= 0:
                raise LeaseLostError("the lease could not be renewed in time")
            try:
                await self._renew(min(left, float(self.settings.renew_seconds)))
                wait = float(self.settings.renew_seconds)
            except LeaseLostError:
                raise
            except ApiError as error:
                log.warning("%s; renewing again", error)
                wait = RETRY_SECONDS

    async def release(self) -> None:
        """Releases the Lease, so that another replica leads at once. Call only after the last write."""
        metrics.LEADER.set(0)
        if self.seconds_left() <= 0:
            return
        self._held_until = 0.0
        spec = self._lease["spec"] | {"holderIdentity": "", "renewTime": _now(), "leaseDurationSeconds": 1}
        try:
            await self.cluster.write_lease(self._lease | {"spec": spec}, RETRY_SECONDS)
        except ApiError as error:
            log.warning("%s; the lease will run out by itself", error)

    async def _write_as_holder(self) -> bool:
        before = self._lease["spec"]
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.settings.duration_seconds,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": before.get("leaseTransitions", -1) + 1,
        }
        started = self.clock()
        try:
            self._lease = await self.cluster.write_lease(
                self._lease | {"spec": spec}, float(self.settings.renew_seconds)
            )
        except (ConflictError, ExistsError):
            return False
        except ApiError as error:
            log.warning("%s; trying again", error)
            return False
        self._held_until = started + self.settings.duration_seconds
        return True

    async def _renew(self, seconds: float) -> None:
        started = self.clock()
        spec = self._lease["spec"] | {"renewTime": _now()}
        try:
            self._lease = await self.cluster.write_lease(self._lease | {"spec": spec}, seconds)
        except (ConflictError, MissingError, ExistsError):
            await self._refresh(seconds)
            return
        self._held_until = started + self.settings.duration_seconds

    async def _refresh(self, seconds: float) -> None:
        """Reads the Lease after another client wrote it; the next renewal overwrites the edit.

        Raises:
            LeaseLostError: another replica holds the Lease, or the Lease was deleted.
        """
        try:
            self._lease = await self.cluster.lease(self.namespace, self.settings.name, seconds)
        except MissingError:
            raise LeaseLostError("the Lease was deleted") from None
        if (holder := self._lease["spec"].get("holderIdentity")) != self.identity:
            raise LeaseLostError(f"{holder} leads now")

    def _new(self) -> Manifest:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.settings.name, "namespace": self.namespace},
            "spec": {},
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
