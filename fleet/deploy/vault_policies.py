"""What each role may do in Vault or OpenBao, as policy text: the least that its work needs.

Vendor keys lie in the KV v2 engine mounted at `llm`, at `<provider>/<tenant>` and `<provider>/<tenant>/<name>`. A pool
reads its own provider's keys; the control plane writes all of them and can read none back. One command may do both,
`fleet keys reseal`, under a role that nothing which runs for long has.
"""

from collections.abc import Sequence

MOUNT = "llm"
APPROLE = "approle"
ADMIN_ROLE = "admin"
RESEAL_ROLE = "reseal"

_OWN_LEASE = """\
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
"""

_WORKER = """\
# The pool of {provider} reads the keys of {provider}, and nothing else.
path "{mount}/data/{provider}/*" {{
  capabilities = ["read"]
}}

{own_lease}"""

_ADMIN = """\
# The control plane writes keys and never reads one: metadata holds versions and times, no value.
path "{mount}/data/*" {{
  capabilities = ["create", "update", "delete"]
}}

path "{mount}/metadata/*" {{
  capabilities = ["read", "list", "delete"]
}}

{own_lease}"""

_RESEAL = """\
# `fleet keys reseal` reads each key, writes it anew, and destroys what the sealing keys before had sealed.
path "{mount}/data/*" {{
  capabilities = ["read", "update"]
}}

path "{mount}/metadata/*" {{
  capabilities = ["read", "list"]
}}

path "{mount}/destroy/*" {{
  capabilities = ["update"]
}}

{own_lease}"""


def role_of_worker(provider: str) -> str:
    """The name of a pool's AppRole and of its policy."""
    return f"worker-{provider}"


def worker_policy(provider: str) -> str:
    """A pool's policy: it reads its own provider's keys."""
    return _WORKER.format(provider=provider, mount=MOUNT, own_lease=_OWN_LEASE)


def admin_policy() -> str:
    """The control plane's policy: it writes and deletes keys, and reads none."""
    return _ADMIN.format(mount=MOUNT, own_lease=_OWN_LEASE)


def reseal_policy() -> str:
    """The policy of `fleet keys reseal`: it reads keys and writes them anew."""
    return _RESEAL.format(mount=MOUNT, own_lease=_OWN_LEASE)


def policies(providers: Sequence[str]) -> dict[str, str]:
    """Policy text by role name; each role's policy has the role's name."""
    pools = {role_of_worker(p): worker_policy(p) for p in providers}
    return {ADMIN_ROLE: admin_policy(), RESEAL_ROLE: reseal_policy(), **pools}
