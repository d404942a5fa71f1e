import pytest

from devcluster import builder
from devcluster.places import DevclusterError


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("operator", "localhost/finetune-operator:dev"),
        ("trainer", "localhost/finetune-trainer:dev"),
        ("localhost/other:1", "localhost/other:1"),
    ],
)
def test_a_target_stands_for_its_image(image: str, expected: str) -> None:
    assert builder.image_name(image) == expected


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("localhost/finetune-operator:dev", "finetune-operator:dev"),
        ("docker.io/library/busybox:1.36", "library/busybox:1.36"),
        ("registry.example:5000/team/tool:2", "team/tool:2"),
        ("team/tool:2", "team/tool:2"),
        ("tool", "tool"),
    ],
)
def test_an_image_keeps_its_name_without_the_registry_it_came_from(local: str, expected: str) -> None:
    assert builder.name_in_registry(local) == expected


def test_a_package_index_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    assert builder._index() == ["--build-arg", "INDEX_URL=https://pypi.example/simple"]


def test_a_password_does_not_get_into_an_images_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@pypi.example/simple")
    with pytest.raises(DevclusterError, match="ends up in the image's history") as refused:
        builder._index()
    assert "secret" not in str(refused.value)


def test_certificates_of_the_machine_are_a_secret_of_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = tmp_path_factory.mktemp("ca") / "bundle.pem"
    bundle.write_text("x")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    assert builder._authorities() == ["--secret", f"id=ca-bundle,src={bundle}"]


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DevclusterError, match="no image target 'web'; there are operator, trainer"):
        builder.build("web")
