"""What crosses a process boundary: requests, events, usage, errors, subjects, streams.

Everything here is pure and depends on pydantic alone, so that an agent installs a thin client and so that
the data plane and the control plane can share a vocabulary without sharing code.
"""
