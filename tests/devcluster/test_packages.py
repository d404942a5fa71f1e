import pytest

from devcluster import packages
from devcluster.places import DevclusterError


def test_what_is_there_is_not_missing() -> None:
    assert packages.absent({"coreutils": "ls", "base-files": "/etc/debian_version"}) == []


def test_an_ordinary_user_is_told_the_packages_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PROGRAMS", {"etcd-server": "no-such-etcd", "runc": "ls"})
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(
        DevclusterError, match=r"missing Debian packages: etcd-server; .*sudo apt-get install"
    ):
        packages.require("etcd-server", "runc")
