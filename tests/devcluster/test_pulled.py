from devcluster.pulled import replaced

LISTED = """\
REF TYPE DIGEST SIZE PLATFORMS LABELS
registry.local:5000/tool@sha256:1 oci sha256:1 3.1 GiB linux/amd64 managed
registry.local:5000/tool@sha256:2 oci sha256:2 3.1 GiB linux/amd64 managed
registry.local:5000/toolbox@sha256:3 oci sha256:3 9 MiB linux/amd64 managed
registry.local:5000/pause:0e oci sha256:4 1.2 MiB linux/amd64 managed
sha256:c1 oci sha256:1 3.1 GiB linux/amd64 managed
sha256:c2 oci sha256:2 3.1 GiB linux/amd64 managed
sha256:c3 oci sha256:3 9 MiB linux/amd64 managed
"""


def test_all_names_of_an_image_go_that_another_replaces() -> None:
    assert replaced(LISTED, "registry.local:5000/tool@sha256:2") == [
        "registry.local:5000/tool@sha256:1",
        "sha256:c1",
    ]


def test_where_nothing_is_replaced_nothing_goes() -> None:
    assert replaced(LISTED, "registry.local:5000/pause@sha256:4") == []
    assert replaced("", "registry.local:5000/tool@sha256:2") == []
