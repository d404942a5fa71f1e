#!/bin/sh
# Loads the images of this release into a registry, and writes values-images.yaml for the chart.
#   ./install.sh REGISTRY/PATH              log in first, if needed: ./bin/crane auth login REGISTRY
#   ./install.sh REGISTRY/PATH --insecure   a registry without TLS
# SSL_CERT_FILE names the certificate authority of a registry with an authority of its own. Nothing else is contacted.
set -eu
cd "$(dirname "$0")"

fail() { echo "error: $*" >&2 && exit 1; }

case ${1:-} in
'' | -*) fail "usage: $0 REGISTRY/PATH [--insecure]" ;;
*://*) fail "$1: give the registry without a scheme, such as registry.example:5000/finetune" ;;
*/*) target=${1%/} ;;
*) target=$1 ;;
esac
case ${2:-} in
'') insecure= ;;
--insecure) insecure=--insecure ;;
*) fail "$2: unknown option; there is --insecure" ;;
esac

sha256sum --check --quiet --strict SHA256SUMS || fail "a file differs from SHA256SUMS: copy the archive again"

chart=$(ls finetune-operator-*.tgz)
version=${chart#finetune-operator-}
version=${version%.tgz}

push() { # prints the reference of the image in the registry, by digest
    ./bin/crane push $insecure "images/$1" "$target/$1:$version" ||
        fail "$1 could not be pushed to $target; the images that were pushed stay there, and ./install.sh can run again"
}
operator=$(push finetune-operator)
trainer=$(push finetune-trainer)
slim=$(push finetune-trainer-slim)

cat >values-images.yaml <<VALUES
# The images of release $version in $target. For helm install --values values-images.yaml
global: {requireDigests: true}
image:
  repository: ${operator%@*}
  digest: ${operator#*@}
trainer:
  image:
    repository: ${trainer%@*}
    digest: ${trainer#*@}
  slimImage:
    repository: ${slim%@*}
    digest: ${slim#*@}
VALUES

cat <<NEXT
The images are in $target. Next:

  helm upgrade --install finetune-operator $chart --namespace finetune-system --create-namespace \\
    --values values-secure.yaml --values values-images.yaml --values site.yaml

docs/admin-guide.md explains site.yaml.
NEXT
