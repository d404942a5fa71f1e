import os
from collections.abc import Generator

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# A finding at a desk is worth a new seed each time; a CI run must end the same way twice.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

ON_THE_NODE = ("tests/e2e/", "tests/devcluster/test_updown.py")
LONGEST_FIRST = (*ON_THE_NODE, "tests/api/", "tests/trainer/stages/", "tests/trainer/", "tests/")


ON_A_CLUSTER = (*ON_THE_NODE, "tests/api/")
LOWER_PRIORITY = 4
"""Niceness of tests without a cluster. The chain of the tests on the node decides how long all tests take."""


class OneNode(LoadScopeScheduling):
    """Several workers: one of them has the machine's one node, and each file's tests stay together."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ON_THE_NODE):
            return "node"
        return "api" if nodeid.startswith("tests/api/") else nodeid.split("::", maxsplit=1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneNode:
    config.option.loadscopereorder = False
    return OneNode(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long starts first, so that no worker is left with it while the others have ended."""
    items.sort(key=_turn)
    for item in items:
        if item.nodeid.startswith(ON_THE_NODE):
            item.add_marker(pytest.mark.cluster)


def _turn(item: pytest.Item) -> int:
    return next(turn for turn, room in enumerate(LONGEST_FIRST) if item.nodeid.startswith(room))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """One of several workers runs a test, and all that the test starts, with the priority of its kind."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
        wanted = 0 if item.nodeid.startswith(ON_A_CLUSTER) else LOWER_PRIORITY
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    return (yield)
