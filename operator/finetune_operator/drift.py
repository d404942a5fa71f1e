"""PURE whether an object is still what it should be."""

from typing import Any


def covers(wanted: Any, there: Any) -> bool:
    """Whether everything that is wanted is there; what the API server or others added does not matter.

    Lists are of one length and compared item by item: an added rule or port is a difference.
    """
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(covers(value, there.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(there, list)
            and len(wanted) == len(there)
            and all(covers(mine, theirs) for mine, theirs in zip(wanted, there, strict=True))
        )
    return bool(wanted == there)
