import pytest

from bench.burst.audit import Request, Requests
from bench.burst.figures import counted, percentile, uncounted


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile((float(n) for n in range(100, 0, -1)), share) == expected


def test_one_value_is_every_percentile() -> None:
    assert percentile([0.3], 0.5) == percentile([0.3], 0.99) == 0.3


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.99)


def test_requests_are_reported_and_read_back() -> None:
    requests = Requests({Request("b", "get", "jobs"): 2, Request("a", "create", "jobs"): 3})
    reported = counted(requests)
    assert [c.actor for c in reported] == ["a", "b"]
    assert uncounted(reported) == requests
