"""The watched scopes and their health. A scope is a namespace or the whole cluster."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetune_operator.runtime import metrics

LOG_INTERVAL_SECONDS = 60.0
"""Interval between two log lines about an unhealthy scope."""
log = logging.getLogger(__name__)


@dataclass
class Scope:
    """One watched namespace, or the whole cluster. A problem of one scope does not affect another scope.

    Attributes:
        namespace: the namespace; None: the whole cluster.
        answered_at: when the API server last answered or refused a list of the scope.
    """

    namespace: str | None
    clock: Callable[[], float] = time.monotonic
    answered_at: float = 0.0
    _listed: bool = False
    _problems: dict[str, str] = field(default_factory=dict)
    """The cause of failure by activity, such as `watch Pod`."""
    _logged: str | None = None
    """The problem that was logged last; None: the scope is healthy."""
    _logged_at: float = 0.0
    _reconciles: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._idle.set()

    def __str__(self) -> str:
        return f"namespace {self.namespace}" if self.namespace else "the cluster"

    @property
    def listed(self) -> bool:
        """Whether the cache is complete for this scope; only then are its runs reconciled."""
        return self._listed

    @property
    def problem(self) -> str | None:
        """Why the scope is unhealthy; None: no list and no watch fails."""
        return next(iter(self._problems.values()), None)

    def start(self) -> None:
        """Marks the cache as complete for this scope."""
        self._listed = True
        self._publish()

    async def stop(self) -> None:
        """Marks the cache as incomplete for this scope, then waits for the reconciles that read it."""
        self._listed = False
        self._publish()
        await self._idle.wait()

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Makes `stop` wait while a run of this scope is reconciled."""
        self._reconciles += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._reconciles -= 1
            if not self._reconciles:
                self._idle.set()

    def note(self, activity: str, problem: str | None) -> None:
        """Records why an activity, such as `watch Pod`, fails; None: the activity works."""
        if problem is None and activity not in self._problems:
            return
        if problem is None:
            del self._problems[activity]
        else:
            self._problems[activity] = problem
        self._log()
        self._publish()

    def _log(self) -> None:
        """Logs each change between healthy and unhealthy, and the problem at most once a minute."""
        problem, now = self.problem, self.clock()
        if problem is None:
            if self._logged is not None:
                log.info("%s can be listed and watched again", self)
        elif self._logged is None or now - self._logged_at >= LOG_INTERVAL_SECONDS:
            self._logged_at = now
            log.warning("%s cannot be listed or watched and is tried again: %s", self, problem)
        else:
            return
        self._logged = problem

    def _publish(self) -> None:
        healthy = self.listed and not self._problems
        metrics.SCOPE_HEALTHY.labels(namespace=self.namespace or "").set(healthy)


class Scopes:
    """All scopes: the configured namespaces, or the whole cluster if none is configured."""

    def __init__(self, namespaces: Iterable[str]) -> None:
        self._by_namespace: dict[str | None, Scope] = {
            namespace: Scope(namespace) for namespace in tuple(namespaces) or (None,)
        }

    def __iter__(self) -> Iterator[Scope]:
        return iter(self._by_namespace.values())

    def of(self, namespace: str | None) -> Scope:
        """The scope that a namespace belongs to; None: the whole cluster.

        Raises:
            KeyError: the namespace is not watched.
        """
        return self._by_namespace.get(None) or self._by_namespace[namespace]

    def answered_at(self) -> float:
        """When the API server last answered a list of any scope."""
        return max(scope.answered_at for scope in self)
