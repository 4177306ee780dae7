#!/bin/sh
# Sets OpenBao or Vault up for the fleet, and may be run again at any time: the key store at llm/, and for each
# policies/NAME.hcl a policy and an AppRole NAME, whose role id is NAME and whose only secret id is that of the
# environment's VAULT_SECRET_ID_NAME; an empty one lets nobody in. Needs the program bao or vault.
#
# VAULT_ADDR: the server. VAULT_TOKEN: of somebody who may set it up; without one a new server is initialised, and
# INIT_DIR is where its root token and recovery key are kept.
set -eu
umask 077
here=$(dirname "$0")
kept=${INIT_DIR:-.}/init.json
command -v bao >/dev/null || bao() { vault "$@"; }

say() { echo "vault-init: $*" >&2; }

tries=0
while code=0 && bao status >/dev/null 2>&1 || code=$?; [ "$code" -eq 1 ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { say "no answer from $VAULT_ADDR"; exit 1; }
  sleep 1
done

if [ "${VAULT_TOKEN:-}" ]; then
  :
elif bao operator init -status >/dev/null 2>&1; then
  [ -s "$kept" ] || { say "the server is initialised and its root token is not in $kept: nothing is changed"; exit 0; }
else
  bao operator init -recovery-shares=1 -recovery-threshold=1 -format=json >"$kept.new"
  mv "$kept.new" "$kept"
  say "initialised; move $kept to a safe place once every role has logged in"
fi
VAULT_TOKEN=${VAULT_TOKEN:-$(sed -n 's/.*"root_token": *"\([^"]*\)".*/\1/p' "$kept")}
export VAULT_TOKEN

tries=0
until bao secrets list >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { say "$VAULT_ADDR does not become active"; bao secrets list >&2; exit 1; }
  sleep 1
done

bao secrets list | grep -q '^llm/' || bao secrets enable -path=llm -version=2 kv
bao auth list | grep -q '^approle/' || bao auth enable approle

for policy in "$here"/policies/*.hcl; do
  name=$(basename "$policy" .hcl)
  role=auth/approle/role/$name
  variable=VAULT_SECRET_ID_$(echo "$name" | tr 'a-z-' 'A-Z_')
  secret_id=$(printenv "$variable") || { say "$variable is not set"; exit 1; }

  bao policy write "$name" "$policy" >/dev/null
  bao write "$role" token_policies="$name" token_no_default_policy=true token_period=1h >/dev/null
  bao write "$role/role-id" role_id="$name" >/dev/null

  accessors() { grep -Eo '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'; }
  current() { [ -z "$secret_id" ] || printf %s "$secret_id" | bao write -field=secret_id_accessor "$role/secret-id/lookup" secret_id=- | accessors; }
  [ -z "$secret_id" ] || [ "$(current)" ] || printf %s "$secret_id" | bao write "$role/custom-secret-id" secret_id=- >/dev/null
  valid=$(current)
  for accessor in $(bao list -format=yaml "$role/secret-id" | accessors); do
    [ "$accessor" = "$valid" ] || bao write "$role/secret-id-accessor/destroy" secret_id_accessor="$accessor" >/dev/null
  done
  say "role $name is ready"
done
