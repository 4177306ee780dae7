# The control plane writes keys and never reads one: metadata holds versions and times, no value.
path "llm/data/*" {
  capabilities = ["create", "update", "delete"]
}

path "llm/metadata/*" {
  capabilities = ["read", "list", "delete"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
