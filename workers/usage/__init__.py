"""The usage consumer: what every attempt cost goes from NATS into PostgreSQL, once."""
