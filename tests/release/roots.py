"""A small root folder of an image, with packages of Debian and Python."""

from pathlib import Path

DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: LGPL-2.1+

License: GPL-2
"""
STATUS = """Package: libc6
Status: install ok installed
Version: 2.36-9

Package: tzdata
Status: install ok installed
Version: 2026a

Package: removed
Status: deinstall ok config-files
Version: 1
"""
PYTHON = {
    "alpha-1.0": ("License-Expression: MIT OR Apache-2.0", "LICENSE.txt"),
    "beta-2.0": (
        """License: a text
Classifier: License :: OSI Approved
Classifier: License :: OSI Approved :: BSD License""",
        "",
    ),
    "gamma-3.0": ("License: NVIDIA Proprietary Software\n        and a long text", ""),
    "silent-0.1": ("Summary: states no licence", ""),
}


def write_root(root: Path) -> None:
    """Writes the files that name packages and licences."""
    dpkg = root / "var/lib/dpkg"
    dpkg.mkdir(parents=True)
    (dpkg / "status").write_text(STATUS)
    for name, text in (("libc6", DEP5), ("tzdata", "In the public domain.\n")):
        folder = root / "usr/share/doc" / name
        folder.mkdir(parents=True)
        (folder / "copyright").write_text(text)
    for name, (fields, licence) in PYTHON.items():
        folder = root / f"opt/venv/lib/python3.13/site-packages/{name}.dist-info"
        folder.mkdir(parents=True)
        title, _, version = name.partition("-")
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {title}\nVersion: {version}\n{fields}\n\n"
        )
        files = [f"{name}.dist-info/METADATA,,"]
        if licence:
            (folder / licence).write_text("Permission is granted.\n")
            files.append(f"{name}.dist-info/{licence},,")
        (folder / "RECORD").write_text("\n".join(files) + "\n")
