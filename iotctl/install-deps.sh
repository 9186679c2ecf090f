#!/bin/sh
# Installs what building and running Fieldline needs and this machine lacks. Silent when nothing is missing.
set -eu

missing=''
need() { missing="$missing $1"; }
installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

command -v cargo >/dev/null || { echo 'Rust is missing: see https://rustup.rs' >&2; exit 1; }

if command -v dpkg-query >/dev/null; then
  for package in build-essential pkg-config cmake libssl-dev libzstd-dev zlib1g-dev; do
    installed "$package" || need "$package"
  done
fi
command -v mvn >/dev/null || need maven
# A compiler, too: the measurements have peers in Java, and a test runs one of them.
command -v javac >/dev/null || need default-jdk-headless
# For the lines that `make up` prints to try.
command -v curl >/dev/null || need curl
command -v mosquitto_pub >/dev/null || need mosquitto-clients
command -v kcat >/dev/null || need kcat
# For the tests with paho-mqtt, DuckDB and moto: a Python and what makes it an environment of its own.
python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
# Private servers need the programs alone; any supported version will do, 15 is Debian 12's.
ls /usr/lib/postgresql/1[5-8]/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || need postgresql

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "please install what these Debian packages hold:$missing" >&2
  exit 1
fi
as_root=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "please install, as root:$missing" >&2; exit 1; }
  as_root=sudo
fi

echo "installing:$missing"
# Debian's server package makes and starts a cluster when it is first installed. Nobody asked for one: this file, there
# only while the packages are installed, says so. A cluster that exists is never touched.
no_cluster=/etc/postgresql-common/createcluster.d/fieldline-no-main-cluster.conf
forget() {
  $as_root rm -f "$no_cluster"
  $as_root rmdir -p --ignore-fail-on-non-empty "${no_cluster%/*}" 2>/dev/null || true
}
trap forget EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
case "$missing" in *postgresql*)
  $as_root mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' | $as_root tee "$no_cluster" >/dev/null
esac
$as_root apt-get -q update
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends $missing
