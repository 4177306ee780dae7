"""What a deployment is made from: users and configuration of NATS, policies of Vault."""
