#!/usr/bin/env bash
# Puts the pinned tools of the chart's tests into a cache: $EAGERLY_TOOLS, or ~/.cache/eagerly-tools.
#
# With EAGERLY_KUBE, a folder with an install-tools.sh of its own, that one installs everything, the control plane too.
# Without it, Go's and Python's own installers bring Helm 4 and 3, kubeconform and its schemas; `make test-kube` then
# says that there is no control plane. Both ways Go brings kube-score as well, without which one test is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."

HELM=v4.3.1
HELM3=v3.22.0
KUBECONFORM=v0.8.0
KUBE_SCORE=v1.20.0
KUBERAY=v1.6.2
SCHEMAS="kubernetes-validate==1.37.0"

export TOOLS_DIR=${EAGERLY_TOOLS:-$HOME/.cache/eagerly-tools}
mkdir -p "$TOOLS_DIR/bin"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install() { # install PROGRAM VERSION PACKAGE
    local mark=$TOOLS_DIR/bin/.$1-$2
    if [[ ! -e $mark ]]; then
        (cd "$work" && GOBIN=$work go install -trimpath -ldflags "-s -w" "$3@$2") &&
            mv "$work/$(basename "$3")" "$TOOLS_DIR/bin/$1" && touch "$mark"
    fi
}

install_linter() {
    install kube-score "$KUBE_SCORE" github.com/zegl/kube-score/cmd/kube-score ||
        echo "make check-tools: Go has not installed kube-score, so the chart is not linted with it" >&2
}

kube=${EAGERLY_KUBE:-}
[[ -n $kube || ! -x ../shared/kube/install-tools.sh ]] || kube=../shared/kube
if [[ -n $kube ]]; then
    if [[ ! -x $kube/install-tools.sh ]]; then
        echo "make check-tools: EAGERLY_KUBE is $kube, and there is no install-tools.sh; unset it or name the right folder" >&2
        exit 2
    fi
    "$kube/install-tools.sh"
    install_linter
    exit
fi

if ! command -v go >/dev/null; then
    echo "make check-tools: Go is needed to install Helm and kubeconform; install it, or set EAGERLY_KUBE" >&2
    exit 2
fi
root=$PWD
cd "$work"
install helm "$HELM" helm.sh/helm/v4/cmd/helm
install helm3 "$HELM3" helm.sh/helm/v3/cmd/helm
install kubeconform "$KUBECONFORM" github.com/yannh/kubeconform/cmd/kubeconform
install_linter
if [[ ! -d $TOOLS_DIR/schemas || ! -d $TOOLS_DIR/kuberay/crds ]]; then
    crds=$(go mod download -json "github.com/ray-project/kuberay/ray-operator@$KUBERAY" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    rm -rf "$TOOLS_DIR/schemas" "$TOOLS_DIR/kuberay/crds"
    command install -D --mode 644 --target-directory "$TOOLS_DIR/kuberay/crds" "$crds"/config/crd/bases/*.yaml
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet "$SCHEMAS" PyYAML
    "$work/venv/bin/python" "$root/tests/kube/schemas.py" "$TOOLS_DIR/kuberay/crds" "$TOOLS_DIR/schemas"
fi
