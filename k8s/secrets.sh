#!/bin/sh
# Makes the passwords of the database's roles, as far as they are not there: for each a secret `<role>-login`, by which
# CloudNativePG makes the role, and a secret `<role>-database` with the URL that the service reads. Needs kubectl and openssl.
# $1: namespace, fieldline by default.
set -eu
namespace=${1:-fieldline}
host=fieldline-database-rw:5432
umask 077
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

make_login() { # name of the login, role, secret of its URL
  if kubectl -n "$namespace" get secret "$1-login" >/dev/null 2>&1; then
    return
  fi
  openssl rand -hex 24 | tr -d '\n' >"$folder/password"
  printf '%s' "$2" >"$folder/username"
  printf 'postgres://%s:%s@%s/fieldline' "$2" "$(cat "$folder/password")" "$host" >"$folder/url"
  # The URL first: a login without its URL would never get one.
  kubectl -n "$namespace" create secret generic "$3" --from-file="$folder/url" --dry-run=client -o yaml |
    kubectl apply -f -
  kubectl -n "$namespace" create secret generic "$1-login" --type=kubernetes.io/basic-auth \
    --from-file="$folder/username" --from-file="$folder/password"
}

make_login fieldline fieldline owner-database
for service in command-svc device-svc threshold-svc cdc-svc query-svc; do
  make_login "$service" "$(echo "$service" | tr - _)" "$service-database"
done
