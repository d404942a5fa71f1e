"""Parses and formats Kubernetes quantities. Pure."""

import math

_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def parse(quantity: str) -> float:
    """A Kubernetes quantity as a number, for example `500m` as 0.5."""
    unit = quantity.lstrip("0123456789.")
    return float(quantity.removesuffix(unit)) * _UNITS.get(unit, 1)


def mebibytes(size: float) -> str:
    """A number of bytes as a quantity, rounded up to whole mebibytes."""
    return f"{math.ceil(size / 2**20)}Mi"
