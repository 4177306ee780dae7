# `fleet keys reseal` reads each key, writes it anew, and destroys what the sealing keys before had sealed.
path "llm/data/*" {
  capabilities = ["read", "update"]
}

path "llm/metadata/*" {
  capabilities = ["read", "list"]
}

path "llm/destroy/*" {
  capabilities = ["update"]
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
