"""Everything dies, and nothing is lost: a few hundred streams while the parts of the fleet are killed, stopped and cut.

`plan` draws requests and faults from a seed, `agents` sends and reads, `faults` breaks things, `books` collects what
vendors, NATS and PostgreSQL say afterwards, and `verdict` holds all of it against docs/guarantees.md.
"""
