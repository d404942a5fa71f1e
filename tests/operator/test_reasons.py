"""docs/reasons.md lists every reason that the operator gives."""

from pathlib import Path

from finetune_operator.names import Reason
from finetune_trainer.contract import FailureClass

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reasons.md").read_text()


def test_every_reason_is_documented() -> None:
    wanted = {r.value for r in Reason} | {f.value for f in FailureClass} - {FailureClass.SUCCESS.value}

    assert [reason for reason in sorted(wanted) if f"`{reason}`" not in DOCUMENT] == []
