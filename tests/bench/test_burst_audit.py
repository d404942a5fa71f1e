from typing import Any

from bench.burst.audit import Request, requests, writes

OPERATOR = "system:serviceaccount:finetune-system:finetune-operator"
ACTORS = ("finetune-operator",)


def event(verb: str, resource: str, user: str = OPERATOR, **more: Any) -> dict[str, Any]:
    return {
        "requestURI": f"/apis/batch/v1/{resource}?limit=500",
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": user},
        "objectRef": {"resource": resource},
    } | more


def test_requests_are_counted_by_actor_verb_and_resource() -> None:
    status = {"resource": "finetunejobs", "subresource": "status"}
    lines = [event("create", "jobs"), event("create", "jobs"), event("update", "", objectRef=status)]
    assert requests(lines, ACTORS) == {
        Request("finetune-operator", "create", "jobs"): 2,
        Request("finetune-operator", "update", "finetunejobs/status"): 1,
    }


def test_others_and_leases_are_left_aside() -> None:
    other = "system:serviceaccount:kubeflow-system:finetune-operator-of-another"
    lines = [event("create", "jobs", other), event("create", "jobs", "admin"), event("update", "leases")]
    assert not requests(lines, ACTORS)


def test_a_watch_counts_once_when_it_begins() -> None:
    lines = [event("watch", "jobs", stage="ResponseStarted"), event("watch", "jobs")]
    assert requests(lines, ACTORS) == {Request("finetune-operator", "watch", "jobs"): 1}


def test_what_is_no_resource_is_named_by_its_path() -> None:
    line = event("get", "", requestURI="/apis?timeout=32s")
    del line["objectRef"]
    assert requests([line], ACTORS) == {Request("finetune-operator", "get", "/apis"): 1}


def test_writes_are_what_changes_something() -> None:
    verbs = ("create", "update", "patch", "delete", "get", "list")
    assert writes(requests([event(verb, "jobs") for verb in verbs], ACTORS)) == 4
