"""Notices on their way out: from the outbox to NATS, webhooks and e-mail, each as often as it takes and no more."""
