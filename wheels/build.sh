#!/bin/sh
# DeepSpeed as a wheel with its CPU operators compiled, so that nothing needs a compiler when it runs on CPUs.
# Used by `make wheels` and by the Dockerfile; they share a wheel through this folder, which git ignores.
#
#   build.sh key   PYTHON               prints the name of the folder a matching wheel lies in
#   build.sh build PYTHON FOLDER [PIP]  builds it into FOLDER; PYTHON has the locked torch,
#                                       PIP is a Python that has pip, if PYTHON has none
#
# CPU_LEVEL=v3 (the default: AVX2, every x86 server since 2015) or v4 (AVX-512, which DeepSpeed's CPU Adam needs
# for bfloat16). DeepSpeed itself would compile for the machine it is built on, and crash on an older one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
lock=$here/../requirements/trainer.txt
level=${CPU_LEVEL:-v3}

locked() { # the lines that lock one package, with its hashes
    awk -v start="$1==" '/^[^ #]/ { on = index($0, start) == 1 } on' "$lock"
}

key() {
    {
        cat "$here/build.sh"
        locked deepspeed
        locked torch
        echo "$level" "$(uname -m)" "$(getconf GNU_LIBC_VERSION)"
        "$1" -c 'import sys; print(sys.version_info[:2])'
    } | sha256sum | cut -c1-16
}

build() {
    python=$1 folder=$2 pip=${3:-$1}
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    locked deepspeed >"$work/deepspeed.txt"
    compiler=g++
    if [ "$(uname -m)" = x86_64 ]; then
        case $level in
        v3) simd=-D__AVX256__ ;;
        v4) simd=-D__AVX512__ ;;
        *) echo "CPU_LEVEL is '$level'; it can be v3 or v4" >&2 && exit 2 ;;
        esac
        cat >"$work/g++" <<SHIM
#!/bin/sh
for word do
    shift
    case \$word in
    -march=native) word=-march=x86-64-$level ;;
    -D__AVX512__ | -D__AVX256__ | -D__SCALAR__) word=$simd ;;
    esac
    set -- "\$@" "\$word"
done
exec /usr/bin/g++ "\$@"
SHIM
        chmod +x "$work/g++"
        compiler=$work/g++
    fi
    CXX=$compiler PATH=$(dirname "$python"):$PATH MAX_JOBS=$(nproc) \
        DS_ACCELERATOR=cpu DS_BUILD_SHM_COMM=1 DS_BUILD_CPU_ADAM=1 \
        "$pip" -m pip --python "$python" wheel --quiet --no-deps --no-build-isolation --no-cache-dir \
        --require-hashes --wheel-dir "$work/wheels" -r "$work/deepspeed.txt"
    mkdir -p "$(dirname "$folder")"
    mv "$work/wheels" "$folder.$$"
    rm -rf "$folder"
    mv "$folder.$$" "$folder" # there whole or not at all
}

case ${1:-} in
key) key "$2" ;;
build) shift && build "$@" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
