# Three images: `operator`, `trainer` (PyTorch with CUDA, which runs on CPUs as well), and `trainer-slim`, which has no
# PyTorch and runs the stages that only read and delete objects in the store.
#
#   buildah bud --target operator     -t finetune-operator     .      (docker build and podman build read it as well)
#   buildah bud --target trainer      -t finetune-trainer      .
#   buildah bud --target trainer-slim -t finetune-trainer-slim .
#
# Inside a company network:
#   --build-arg BASE_IMAGE=registry.example/debian:trixie-slim      any Debian 13; its apt sources are used as they are
#   --build-arg INDEX_URL=https://pypi.example/simple               a mirror of the Python package index
#   --secret id=ca-bundle,src=company-ca.pem                        what TLS connections trust while building: a PEM
#                                                                   file with the CA of the proxy or of the mirrors;
#                                                                   it is in no layer and in no image
#   http_proxy, https_proxy and no_proxy are taken from the environment by docker, podman and buildah.
# --build-arg CPU_LEVEL=v4 compiles DeepSpeed's CPU operators for AVX-512 instead of AVX2 (wheels/build.sh).
#
# Every Python package is pinned by its hash. What changes seldom comes first, our own source last.

ARG BASE_IMAGE=docker.io/library/debian:trixie-slim

# Python, and the user that everything runs as.
FROM ${BASE_IMAGE} AS python
COPY requirements/image.sh requirements/bootstrap.txt /opt/build/requirements/
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh system ca-certificates python3 \
    && echo 'finetune:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'finetune:x:10001:' >>/etc/group
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONPATH=/opt/finetune \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
EXPOSE 8080

FROM python AS operator
LABEL org.opencontainers.image.title="finetune-operator" \
      org.opencontainers.image.description="Turns FineTuneJobs into checked, measured and published models" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG INDEX_URL=
COPY requirements/operator.txt /opt/build/requirements/
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh venv /opt/build/requirements/operator.txt
COPY pyproject.toml /opt/build/
RUN /opt/build/requirements/image.sh metadata /opt/finetune
# The kernel drops a signal that its first process does not handle yet, but keeps one that is blocked: a pod that is
# told to leave while Python starts does so, and does not use up its grace period.
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "finetune_operator"]
COPY operator/finetune_operator /opt/finetune/finetune_operator
COPY trainer/finetune_trainer /opt/finetune/finetune_trainer
# The root file system of a pod is read-only: Python cannot keep bytecode there.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/finetune
USER 10001:10001

FROM python AS trainer-slim
LABEL org.opencontainers.image.title="finetune-trainer-slim" \
      org.opencontainers.image.description="Reads results and deletes the files of runs in S3" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG INDEX_URL=
COPY requirements/trainer-slim.txt /opt/build/requirements/
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh venv /opt/build/requirements/trainer-slim.txt
COPY pyproject.toml /opt/build/
RUN /opt/build/requirements/image.sh metadata /opt/finetune
# As above.
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "finetune_trainer"]
COPY trainer/finetune_trainer /opt/finetune/finetune_trainer
# As above.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/finetune
USER 10001:10001

# PyTorch and all else but DeepSpeed. On GPUs Triton compiles a small launcher for each kernel when it first runs,
# hence a C compiler and Python's headers; on CPUs nothing is compiled at run time.
FROM python AS trainer-packages
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh system gcc libc6-dev libpython3-dev
ARG INDEX_URL=
COPY requirements/trainer.txt /opt/build/requirements/
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh venv /opt/build/requirements/trainer.txt

# DeepSpeed's operators take minutes to compile; a wheel that `make wheels` left in wheels/ is taken if it was
# made from the same pins.
FROM trainer-packages AS deepspeed
ARG INDEX_URL=
ARG CPU_LEVEL=v3
COPY wheels /opt/build/wheels
RUN --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.pem \
    /opt/build/requirements/image.sh deepspeed /opt/deepspeed

FROM trainer-packages AS trainer
LABEL org.opencontainers.image.title="finetune-trainer" \
      org.opencontainers.image.description="Prepares data, trains with DeepSpeed, measures and publishes" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=deepspeed /opt/deepspeed /opt/venv/lib/python3.13/site-packages
COPY pyproject.toml /opt/build/
RUN /opt/build/requirements/image.sh metadata /opt/finetune
# As above.
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "finetune_trainer"]
COPY trainer/finetune_trainer /opt/finetune/finetune_trainer
# As above.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/finetune
USER 10001:10001
