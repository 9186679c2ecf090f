#!/bin/sh
# Gets kustomize and the types of Kubernetes resources, each at its pinned version, and promtool, and runs the check. $1: folder to keep them in.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=$1
mkdir -p "$tools/modules"
tools=$(cd "$tools" && pwd)
KUSTOMIZE=v5.7.1
for tool in go node npm; do
  command -v $tool >/dev/null || { echo "k8s-check needs $tool on the PATH" >&2; exit 1; }
done
if ! "$tools/kustomize" version 2>/dev/null | grep -qx "$KUSTOMIZE"; then
  echo "building kustomize $KUSTOMIZE (a minute and a half, once)" >&2
  GOBIN=$tools go install sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE
fi
cmp -s "$here/package-lock.json" "$tools/modules/package-lock.json" || {
  cp "$here/package.json" "$here/package-lock.json" "$tools/modules/"
  (cd "$tools/modules" && npm ci --silent --no-audit --no-fund)
}
promtool=$(command -v promtool || echo "$tools/prometheus/usr/bin/promtool")
if ! [ -x "$promtool" ]; then
  command -v apt-get >/dev/null || { echo "k8s-check needs promtool on the PATH" >&2; exit 1; }
  # Only unpacked: the package would start a server.
  (cd "$tools" && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb prometheus && rm prometheus_*.deb)
fi
exec node "$here/check.mjs" "$here/../.." "$tools/kustomize" "$promtool" "$tools/modules"
