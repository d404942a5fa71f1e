from pathlib import Path

import pytest

from devcluster.cluster import Cluster, chosen
from devcluster.places import DevclusterError


def test_the_default_name_and_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DEVCLUSTER_NAME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert chosen() == Cluster("finetune", tmp_path / "finetune-operator" / "finetune")


@pytest.mark.parametrize("name", ["", "a", "A1", "1a", "a_b", "a-", "twelve-chars", "../up"])
def test_a_name_that_does_not_fit_is_refused_with_the_rule(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DEVCLUSTER_NAME", name)
    with pytest.raises(DevclusterError, match="2 to 11 lower-case letters"):
        chosen()


def test_the_longest_name_makes_a_link_name_the_kernel_takes() -> None:
    assert len(Cluster("a2345678901", Path("/x")).host_link) <= 15


def test_clusters_of_different_names_share_nothing() -> None:
    one, other = (Cluster(name, Path("/state") / name) for name in ("finetune", "other"))
    for what in ("host_link", "address", "host_address", "control_group", "mark", "image_store"):
        assert getattr(one, what) != getattr(other, what)
