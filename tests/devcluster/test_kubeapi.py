import pytest

from devcluster.kubeapi import path


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
            "/api/v1/namespaces/a",
        ),
        (
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"}},
            "/apis/apps/v1/namespaces/b/deployments/a",
        ),
    ],
)
def test_the_path_of_an_object(manifest: dict[str, object], expected: str) -> None:
    assert path(manifest) == expected
