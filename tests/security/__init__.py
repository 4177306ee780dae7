"""Attacks, as a tenant, as a vendor and as a tenant's admin, on a fleet of real servers and processes.

`fleet` starts it and knows its parts, `raw` is an agent without the client, `hostile` a vendor that wishes nobody well.
`neighbours` asks as a quiet tenant while an attack goes on and checks what it cost the others. Each test holds one wall
of docs/security.md.
"""
