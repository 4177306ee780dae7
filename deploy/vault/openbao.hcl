# One node that unseals itself with VAULT_SEAL_KEY. In production: several nodes, TLS, and a seal kept by a KMS.
ui = false
api_addr     = "http://vault:8200"
cluster_addr = "http://127.0.0.1:8201"

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  tls_disable     = true
}

storage "raft" {
  path    = "/openbao/file"
  node_id = "fleet"
  # Raft's production timing: the default, for very small machines, makes a start five times as long.
  performance_multiplier = 1
}

seal "static" {
  current_key_id = "1"
  current_key    = "env://VAULT_SEAL_KEY"
}
