"""The table of bench/faults names tests that exist."""

from pathlib import Path

import pytest

from bench.faults.table import ELSEWHERE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("named", [named for named in ELSEWHERE.values() if named != "not covered"])
def test_the_table_names_tests_that_exist(named: str) -> None:
    file, test = named.split(": ")
    assert f"def {test}(" in (ROOT / file).read_text()
