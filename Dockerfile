# Two images: `operator` (small) and `trainer` (PyTorch with CUDA, which runs on CPUs as well).
#
#   buildah bud --target operator -t finetune-operator .        (docker build and podman build read it as well)
#   buildah bud --target trainer  -t finetune-trainer  .
#
# Inside a company network:
#   --build-arg BASE_IMAGE=registry.example/debian:bookworm-slim    any Debian 12; its apt sources are used as they are
#   --build-arg INDEX_URL=https://pypi.example/simple               a mirror of the Python package index
#   --secret id=ca-bundle,src=company-ca.pem                        what TLS connections trust while building: a PEM
#                                                                   file with the proxy's or the mirrors' CA; it is
#                                                                   in no layer and in no image
#   http_proxy, https_proxy and no_proxy are taken from the environment by docker, podman and buildah.
# --build-arg CPU_LEVEL=v4 compiles DeepSpeed's CPU operators for AVX-512 instead of AVX2 (wheels/build.sh).
#
# Every Python package is pinned by hash. DeepSpeed's operators take minutes to compile: a wheel that `make wheels`
# left in wheels/ is used if it was made from the same pins.

ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

# Python and the user that everything runs as.
FROM ${BASE_IMAGE} AS python
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    set -eu; \
    if [ -s /run/ca-bundle.pem ]; then set -- -o Acquire::https::CaInfo=/run/ca-bundle.pem; fi; \
    apt-get "$@" update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install -qy --no-install-recommends ca-certificates python3; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log; \
    echo 'finetune:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd; \
    echo 'finetune:x:10001:' >>/etc/group
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONPATH=/opt/finetune \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# uv and pip, for the build only, and the certificates to trust meanwhile.
FROM python AS tools
ARG INDEX_URL=
COPY requirements/bootstrap.txt /build/requirements/
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    set -eu; \
    if [ -s /run/ca-bundle.pem ]; then set -- -o Acquire::https::CaInfo=/run/ca-bundle.pem; fi; \
    apt-get "$@" update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install -qy --no-install-recommends python3-venv; \
    python3 -m venv /opt/tools; \
    cat /run/ca-bundle.pem >/opt/tools/ca.pem 2>/dev/null || cp /etc/ssl/certs/ca-certificates.crt /opt/tools/ca.pem; \
    PIP_CERT=/opt/tools/ca.pem /opt/tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \
        ${INDEX_URL:+--index-url "$INDEX_URL"} --require-hashes -r /build/requirements/bootstrap.txt

FROM python AS operator
LABEL org.opencontainers.image.title="finetune-operator" \
      org.opencontainers.image.description="Turns FineTuneJobs into checked, measured and published models" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG INDEX_URL=
COPY requirements/operator.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    set -eu; \
    export SSL_CERT_FILE=/opt/tools/ca.pem UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 PYTHONDONTWRITEBYTECODE=; \
    /opt/tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv; \
    /opt/tools/bin/uv pip install --quiet --python /opt/venv ${INDEX_URL:+--index-url "$INDEX_URL"} \
        --require-hashes -r /opt/requirements.txt
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["python", "-m", "finetune_operator"]
COPY operator/finetune_operator /opt/finetune/finetune_operator
COPY trainer/finetune_trainer /opt/finetune/finetune_trainer

# PyTorch and all else but DeepSpeed. On GPUs Triton compiles a small launcher for each kernel when it first runs,
# hence a C compiler and Python's headers; on CPUs nothing is compiled.
FROM python AS trainer-packages
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    set -eu; \
    if [ -s /run/ca-bundle.pem ]; then set -- -o Acquire::https::CaInfo=/run/ca-bundle.pem; fi; \
    apt-get "$@" update -q; \
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install -qy --no-install-recommends gcc libc6-dev libpython3-dev; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
ARG INDEX_URL=
COPY requirements/trainer.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    set -eu; \
    export SSL_CERT_FILE=/opt/tools/ca.pem UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 PYTHONDONTWRITEBYTECODE=; \
    /opt/tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv; \
    awk '/^[^ #]/ { other = !/^deepspeed==/ } other' /opt/requirements.txt >/tmp/others.txt; \
    /opt/tools/bin/uv pip install --quiet --python /opt/venv ${INDEX_URL:+--index-url "$INDEX_URL"} \
        --require-hashes --no-deps -r /tmp/others.txt; \
    rm /tmp/others.txt

FROM trainer-packages AS wheels
ARG INDEX_URL=
ARG CPU_LEVEL=v3
COPY requirements/trainer.txt /build/requirements/
COPY wheels /build/wheels
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    set -eu; \
    kept=/build/wheels/$(/build/wheels/build.sh key /opt/venv/bin/python); \
    if [ -d "$kept" ]; then \
        cp -r "$kept" /wheels; \
    else \
        if [ -s /run/ca-bundle.pem ]; then set -- -o Acquire::https::CaInfo=/run/ca-bundle.pem; fi; \
        apt-get "$@" update -q; \
        DEBIAN_FRONTEND=noninteractive apt-get "$@" install -qy --no-install-recommends g++; \
        export PIP_CERT=/opt/tools/ca.pem PIP_DISABLE_PIP_VERSION_CHECK=1 ${INDEX_URL:+PIP_INDEX_URL="$INDEX_URL"}; \
        /build/wheels/build.sh build /opt/venv/bin/python /wheels /opt/tools/bin/python; \
    fi

FROM trainer-packages AS trainer
LABEL org.opencontainers.image.title="finetune-trainer" \
      org.opencontainers.image.description="Prepares data, trains with DeepSpeed, measures and publishes" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 PYTHONDONTWRITEBYTECODE= \
    /opt/tools/bin/uv pip install --quiet --offline --no-deps --python /opt/venv /wheels/*.whl
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["python", "-m", "finetune_trainer"]
COPY trainer/finetune_trainer /opt/finetune/finetune_trainer
