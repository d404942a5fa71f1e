"""The guides tell the truth about notifications: the code that verifies a signature, events and types."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.names import NotificationEvent
from finetune_operator.planning.cloud_events import TYPE_PREFIX, TYPE_VERSION
from finetune_operator.runtime.webhook import decode_key, sign
from tests.operator.planning.test_notifications import condition, end, event_of

DOCS = Path(__file__).parents[2] / "docs"
KEY, NEW = "whsec_" + "a2tr" * 11, "whsec_" + "bm5u" * 11
Verify = Callable[[dict[str, str], bytes, str], bool]


@pytest.fixture
def verify() -> Verify:
    """The function `verify` of the admin guide."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "admin-guide.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the code of the guide is what is tested
    found: Verify = names["verify"]
    return found


def headers(age: float = 0, *keys: str) -> dict[str, str]:
    timestamp = int(time.time() - age)
    signature = sign([decode_key(key) for key in keys or (KEY,)], "id", timestamp, b"{}")
    return {"webhook-id": "id", "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_code_of_the_guide_accepts_what_the_operator_signs(verify: Verify) -> None:
    assert verify(headers(), b"{}", KEY)
    assert verify(headers(0, NEW, KEY), b"{}", KEY)
    assert verify(headers(0, NEW, KEY), b"{}", NEW)


def test_the_code_of_the_guide_refuses_anything_else(verify: Verify) -> None:
    assert not verify(headers(), b"{ }", KEY)
    assert not verify(headers(), b"{}", NEW)
    assert not verify(headers(3600), b"{}", KEY)
    assert not verify(headers() | {"webhook-id": "other"}, b"{}", KEY)


def test_the_guides_list_all_events_and_types() -> None:
    section = (DOCS / "user-guide.md").read_text().split("### Notifications\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == set(NotificationEvent)
    text = (DOCS / "admin-guide.md").read_text()
    first, *others = [f"{event.lower()}.{TYPE_VERSION}" for event in NotificationEvent]
    assert f"`{TYPE_PREFIX}.{first}`" in text
    assert [other for other in others if f"`.{other}`" not in text] == []


def test_the_example_of_the_user_guide_has_the_form_of_an_event() -> None:
    section = (DOCS / "user-guide.md").read_text().split("### Notifications\n")[1].split("\n## ")[0]
    (text,) = re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)
    conditions = [condition("Succeeded", "True"), condition("GatePassed", "True")]
    found = event_of(end("Succeeded", reached="Publish", conditions=conditions), "Succeeded")
    assert form(json.loads(text)) == form(found)


def form(document: Any) -> Any:
    """The keys of a document, and the types of its values."""
    if isinstance(document, dict):
        return {key: form(value) for key, value in document.items()}
    return type(document)
