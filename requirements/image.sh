#!/bin/sh
# What the Dockerfile's stages share. Certificates come from the build secret /run/ca-bundle.pem if there is one,
# a package index other than the default from INDEX_URL.
#
#   image.sh system PACKAGE...   Debian packages, without leaving lists and logs in the layer
#   image.sh venv LOCK           /opt/venv with all that LOCK pins but DeepSpeed, each file checked by its hash
#   image.sh deepspeed FOLDER    DeepSpeed unpacked into FOLDER, from a matching wheel in wheels/ or newly built
#   image.sh metadata FOLDER     name and version of the project, where importlib.metadata finds them
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ca=/run/ca-bundle.pem

apt() {
    if [ -s $ca ]; then set -- -o Acquire::https::CaInfo=$ca "$@"; fi
    DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o APT::Install-Recommends=0 "$@"
}

system() {
    apt update
    apt -y install "$@"
    apt clean
    rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/debconf/*-old
}

with_pip() { # a Python that has pip, in /tmp/tools, for as long as the layer is made
    system python3-venv
    /usr/bin/python3 -m venv /tmp/tools
    if [ -s $ca ]; then export PIP_CERT=$ca SSL_CERT_FILE=$ca; else export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt; fi
    if [ -n "${INDEX_URL:-}" ]; then export PIP_INDEX_URL="$INDEX_URL" UV_DEFAULT_INDEX="$INDEX_URL"; fi
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
}

without_pip() {
    rm -rf /tmp/tools
    apt -y -o APT::AutoRemove::SuggestsImportant=0 purge --auto-remove python3-venv
}

venv() {
    with_pip
    /tmp/tools/bin/pip install --quiet --require-hashes -r "$here/bootstrap.txt"
    awk '/^[^ #]/ { other = !/^deepspeed==/ } other' "$1" >/tmp/others.txt
    export UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
    /tmp/tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv
    /tmp/tools/bin/uv pip install --quiet --python /opt/venv --no-deps --require-hashes -r /tmp/others.txt
    rm /tmp/others.txt
    without_pip
}

deepspeed() {
    wheels=$here/../wheels
    made=$wheels/$("$wheels/build.sh" key /opt/venv/bin/python)
    if [ ! -d "$made" ]; then
        with_pip
        system g++
        "$wheels/build.sh" build /opt/venv/bin/python "$made" /tmp/tools/bin/python
    fi
    /opt/venv/bin/python -m zipfile --extract "$made"/*.whl "$1"
    /opt/venv/bin/python -m compileall -q "$1"
}

metadata() {
    /opt/venv/bin/python - "$here/../pyproject.toml" "$1" <<'PYTHON'
import pathlib, sys, tomllib

project = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())["project"]
folder = pathlib.Path(sys.argv[2], f"{project['name'].replace('-', '_')}-{project['version']}.dist-info")
folder.mkdir(parents=True)
(folder / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
)
PYTHON
}

"$@"
