"""The settings file: what it refuses, and what its lists of namespaces mean."""

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_operator.objects import Manifest
from finetune_operator.settings import allows
from tests.operator import scenes
from tests.operator.api.test_endpoint import REFUSED

STORE: Manifest = {"endpoint": "https://minio.storage:9000"}


def target(**changes: Any) -> Manifest:
    """Settings with a notification target."""
    return {
        "notifications": {"targets": {"crm": {"url": "https://crm.example", "secretName": "crm", **changes}}}
    }


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        (["*"], ["a", "team-a"], []),
        ([], [], ["a", "default"]),
        (["team-a"], ["team-a"], ["team-ab", "a-team-a", "team"]),
        (["team-*"], ["team-a", "team-"], ["team", "a-team-b"]),
        (["a", "b*"], ["a", "b", "bc"], ["ab", "c"]),
    ],
)
def test_namespaces_are_allowed_by_name_and_by_beginning(
    patterns: list[str], inside: list[str], outside: list[str]
) -> None:
    assert all(allows(patterns, namespace) for namespace in inside)
    assert not any(allows(patterns, namespace) for namespace in outside)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profiles": {"default": {"store": "minio"}}}, "profiles.default.store: there is no store 'minio'"),
        ({"stores": {"minio": STORE | {"allowedNamespaces": ["a*b"]}}}, "allowedNamespaces"),
        ({"stores": {"minio": STORE | {"allowedNamespaces": ["Team"]}}}, "allowedNamespaces"),
        ({"stores": {"minio": STORE | {"egress": {"cidrs": ["169.254.169.254/32"]}}}}, "metadata services"),
        ({"stores": {"minio": STORE | {"egress": {"cidrs": ["fe80::/12"]}}}}, "metadata services"),
        ({"stores": {"minio": STORE | {"egress": {"cidrs": ["10.0.0/8"]}}}}, "does not appear"),
        ({"stores": {"minio": STORE | {"egress": {"cidrs": ["10.0.0.1/8"]}}}}, "has host bits set"),
        ({"stores": {"minio": STORE | {"egress": {"ports": [0]}}}}, "ports"),
        ({"stores": {"Minio": STORE}}, "stores"),
        (target(url="http://crm.example"), "notifications.targets.crm.url: plain http is refused here"),
        (target(url="https://user@crm.example"), "url"),
        (target(url="https://"), "url"),
        (target(events=[]), "events"),
        (target(egress={"cidrs": ["169.254.169.254/32"]}), "metadata services"),
        ({"profiles": {"default": {"storage": STORE}}}, "storage"),
        *(({"stores": {"minio": {"endpoint": endpoint}}}, why) for endpoint, why in REFUSED),
    ],
)
def test_impossible_settings_are_refused(changes: Manifest, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        scenes.settings(changes)


def test_plain_http_to_a_target_needs_the_setting_that_allows_plain_http() -> None:
    found = scenes.settings({"requireTls": False, **target(url="http://crm.example/hooks?a=b")})
    assert found.notifications.targets["crm"].url == "http://crm.example/hooks?a=b"
