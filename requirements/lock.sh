#!/bin/sh
# Locks each extra of pyproject.toml with hashes. Pins stay as they are unless --upgrade is given.
set -eu
cd "$(dirname "$0")/.."

locks() {
    .venv/bin/uv pip compile --quiet --generate-hashes --python-version 3.11 --no-header --no-annotate \
        --no-emit-index-url "$@"
}

# uv itself comes first: everything else is installed with it.
echo uv | locks - -o requirements/bootstrap.txt "$@"
# One lock constrains the next, so that packages which several share agree.
locks pyproject.toml --extra operator -o requirements/operator.txt "$@"
locks pyproject.toml --extra trainer -c requirements/operator.txt -o requirements/trainer.txt "$@"
locks pyproject.toml --extra trainer-slim -c requirements/trainer.txt -o requirements/trainer-slim.txt "$@"
locks pyproject.toml --extra operator --extra trainer --extra dev --extra docs \
    -c requirements/operator.txt -c requirements/trainer.txt -o requirements/dev.txt "$@"
# What a benchmark needs lies over all that: only what TRL brings along.
known=$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements/dev.txt)
# shellcheck disable=SC2086 # many words
echo trl | locks - -c requirements/dev.txt $known -o bench/train_throughput/requirements.txt "$@"
# The readers of published folders: an older transformers over the project's packages, and ONNX with llama.cpp's needs.
printf '%s\n' 'transformers==4.57.*' 'tokenizers<0.23' 'huggingface-hub<1' 'peft==0.17.*' |
    locks - --no-deps -o bench/readers/transformers4.txt "$@"
# shellcheck disable=SC2086 # many words
printf '%s\n' onnx onnxruntime onnxscript sentencepiece |
    locks - -c requirements/dev.txt $known -o bench/readers/converters.txt "$@"
# checkov, in an environment of its own.
echo checkov | locks - -o devcluster/python/checkov.txt "$@"
