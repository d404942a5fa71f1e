#!/bin/sh
# Makes .venv: all that requirements/dev.txt locks, DeepSpeed's wheel, and the project as it lies here.
# Does nothing when that is done already. As root on Debian it installs the packages it needs, else it names them.
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/finetune-operator
mkdir -p "$cache/lock"
exec 9>"$cache/lock/setup"
flock 9

wanted() { cat requirements/*.txt requirements/setup.sh wheels/build.sh pyproject.toml | sha256sum; }
if [ "$(cat .venv/.setup 2>/dev/null)" = "$(wanted)" ]; then exit 0; fi

fail() { echo "error: $*" >&2 && exit 1; }
say() { echo "  ... $*" >&2; }

find_python() { # the first Python 3.11 that can make a virtual environment
    for python in python3.11 python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            return 0
        fi
    done
    return 1
}

need() { # Debian packages, installed or named
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "these Debian packages are needed: apt-get install $*"
    fi
    say "installing Debian packages: $*"
    apt-get -q update >/dev/null
    DEBCONF_NOWARNINGS=yes DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$@" >/dev/null
}

# A company's certificate authority that the system knows holds for pip and uv as well.
system_ca=/etc/ssl/certs/ca-certificates.crt
if [ -z "${SSL_CERT_FILE:-}" ] && [ -s $system_ca ]; then export SSL_CERT_FILE=$system_ca; fi
export PIP_CERT="${PIP_CERT:-${SSL_CERT_FILE:-}}" PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -z "$PIP_CERT" ]; then unset PIP_CERT; fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip'; then
    find_python || { need ca-certificates python3 python3-venv && find_python; } ||
        fail "Python 3.11 with venv is needed, and python3 here is $(python3 --version 2>&1): install python3.11-venv"
    say "making .venv with $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    "$python" -m venv --clear .venv
fi

venv=$PWD/.venv/bin/python
# pip knows this machine's package index from its configuration; uv has to be told.
index=$("$venv" -m pip config get global.index-url 2>/dev/null || true)
if [ -n "${PIP_INDEX_URL:-$index}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$index}}"; fi

say "installing Python packages (2 GB to download when nothing is cached)"
"$venv" -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
others=$(mktemp)
trap 'rm -f "$others"' EXIT
awk '/^[^ #]/ { other = !/^deepspeed==/ } other' requirements/dev.txt >"$others"
.venv/bin/uv pip install --quiet --python "$venv" --no-deps --require-hashes -r "$others"

key=$(wheels/build.sh key "$venv")
if [ ! -d "$cache/wheels/$key" ]; then
    if [ -d "wheels/$key" ]; then
        mkdir -p "$cache/wheels"
        cp -r "wheels/$key" "$cache/wheels/.$key.$$" && mv "$cache/wheels/.$key.$$" "$cache/wheels/$key"
    else
        header=$("$venv" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
        if ! command -v g++ >/dev/null || [ ! -e "$header" ]; then need g++ libpython3-dev; fi
        say "compiling DeepSpeed's CPU operators (about 3 minutes, once)"
        wheels/build.sh build "$venv" "$cache/wheels/$key"
    fi
fi
if [ ! -d "wheels/$key" ]; then
    rm -rf wheels/*/
    cp -r "$cache/wheels/$key" "wheels/.$key.$$" && mv "wheels/.$key.$$" "wheels/$key"
fi
if [ "$(cat .venv/.deepspeed 2>/dev/null)" != "$key" ]; then
    .venv/bin/uv pip install --quiet --python "$venv" --no-deps --offline --reinstall-package deepspeed wheels/"$key"/*.whl
    echo "$key" >.venv/.deepspeed
fi

.venv/bin/uv pip install --quiet --python "$venv" --no-deps --no-build-isolation --offline --editable .
wanted >.venv/.setup
