"""The NATS server's configuration: accounts, users, their permissions, how they log in, TLS.

Each tenant's agents are in an account of their own, which shares with the fleet's account its requests, questions and
replies, and nothing else. Permissions alone would not keep tenants apart: the server checks the subject that a client
publishes to, not the one where it wants the answer, and within one account that can be anybody's. Between accounts the
server puts a subject of its own in the answer's place.

A running server takes a new configuration at SIGHUP. Clients stay connected; but it forgets who may answer what was
asked before (`allow_responses`), and drops those answers. It has to be told `RELOADS` times: nats-server 2.15 gives an
account that is new to it no client of its own for its imports of services, and makes good for it the next time
(server.go, configureAccounts). Until then whoever is in that account is told that nobody responds.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from contracts import subjects
from fleet.deploy.nats_users import FLEET_ACCOUNT, SYSTEM_ACCOUNT, User

MAX_PAYLOAD = "8MB"
JETSTREAM_KEY, JETSTREAM_KEY_PREVIOUS = "NATS_JETSTREAM_KEY", "NATS_JETSTREAM_KEY_PREVIOUS"
"""The variables with the key that JetStream's files are encrypted with, and with the one before: empty, but for the
first start after the key was changed. The server needs both."""
RELOADS = 2
"""How often a running server has to read its configuration until accounts that are new to it are served."""

_ENCRYPTION = f"""\
  cipher: aes
  key: ${JETSTREAM_KEY}
  prev_encryption_key: ${JETSTREAM_KEY_PREVIOUS}
"""

Login = Callable[[User], str]
"""From a user to the lines of its block that say who it is."""


@dataclass(frozen=True, slots=True)
class Node:
    """A server of a cluster. `listen` and `peers` are the addresses (`host:port`) of the routes between servers."""

    name: str
    listen: str
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JetStreamKeys:
    """What JetStream's files are encrypted with. `previous` is the key before, at the first start with another one of
    a server that is in no cluster; empty: none."""

    key: str = field(repr=False)
    previous: str = field(default="", repr=False)

    def environment(self) -> dict[str, str]:
        """The variables that the server reads them from."""
        return {JETSTREAM_KEY: quoted(self.key), JETSTREAM_KEY_PREVIOUS: quoted(self.previous)}


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's certificate, its key, and who signs those of clients: paths on the server's machine."""

    cert: str
    key: str
    client_ca: str | None = None
    """None: clients need no certificate."""


def server(
    *,
    listen: str,
    store_dir: str,
    name: str = "fleet",
    accounts: str = "",
    tls: Tls | None = None,
    node: Node | None = None,
    encrypted: bool = True,
) -> str:
    """The whole configuration of one server, which syncs to disk before each PubAck: without that, a power cut loses
    requests that were acknowledged (nats-server issue 7564).

    `name` is what it calls itself, unless it is a `node` of a cluster. `accounts` is what the function of that name
    makes; empty: everybody may do everything. `encrypted`: JetStream encrypts what it writes to disk, and the server
    needs `JETSTREAM_KEY` and `JETSTREAM_KEY_PREVIOUS`, each as NATS configuration (`quoted`), in its environment or in
    what its configuration includes.
    """
    cluster = ""
    if node:
        routes = _list(f"nats-route://{peer}" for peer in node.peers)
        cluster = f"cluster {{\n  name: fleet\n  listen: {quoted(node.listen)}\n  routes: {routes}\n}}\n"
    return f"""\
server_name: {node.name if node else name}
listen: {quoted(listen)}
max_payload: {MAX_PAYLOAD}
{_tls(tls) if tls else ""}jetstream {{
  store_dir: {quoted(store_dir)}
{_ENCRYPTION if encrypted else ""}  sync_interval: always
  max_buffered_msgs: 10000
  max_buffered_size: 64MB
  max_memory_store: 2GB
  max_file_store: 64GB
}}
{cluster}{accounts}"""


def accounts(of: Sequence[User], *, login: Login) -> str:
    """The block of accounts, with these users in it."""
    agents = [user for user in of if user.account not in (FLEET_ACCOUNT, SYSTEM_ACCOUNT)]
    exports = "".join(export for agent in agents for export in _exports(agent))
    fleet = f"jetstream: enabled\n    exports: [\n{exports}    ]"
    blocks = [
        _account(FLEET_ACCOUNT, fleet, of, login),
        *(_account(agent.account, _imports(agent), [agent], login) for agent in agents),
        _account(SYSTEM_ACCOUNT, "", of, login),
    ]
    return f"accounts {{\n{''.join(blocks)}}}\n"


def by_password(value: Callable[[User], str]) -> Login:
    """Users log in with a password. `value` writes it as NATS configuration: `quoted` text, or `$` and a variable."""
    return lambda user: f"user: {quoted(user.name)}\n        password: {value(user)}"


def by_nkey(public_key: Callable[[User], str]) -> Login:
    """Users log in with an nkey. The server keeps no secret: a client signs what the server makes up."""
    return lambda user: f"nkey: {public_key(user)}"


def variables(of: Sequence[User]) -> dict[str, str]:
    """The variable of each user's password, by the user's name.

    Where several names would share one, as those of the tenants `de-mo`, `de_mo` and `De-mo` do, the plainest
    has it, and that of the others ends in a digest of the name.
    """
    shared = Counter(map(_variable, of))

    def variable(user: User) -> str:
        plainest = user.name == user.name.lower().replace("_", "-")
        if shared[_variable(user)] == 1 or plainest:
            return _variable(user)
        # No other variable has small letters.
        return f"{_variable(user)}_x{hashlib.sha256(user.name.encode()).hexdigest()[:12]}"

    return {user.name: variable(user) for user in of}


def _variable(user: User) -> str:
    return f"NATS_PASSWORD_{user.name.upper().replace('-', '_')}"


def quoted(text: str) -> str:
    """A string of NATS configuration, which is never read as a number or a variable."""
    return json.dumps(text)


def _account(name: str, shared: str, of: Sequence[User], login: Login) -> str:
    users = "".join(_user(user, login(user)) for user in of if user.account == name)
    return f"  {name} {{\n{f'    {shared}' if shared else ''}\n    users: [\n{users}    ]\n  }}\n"


def _exports(agent: User) -> Iterator[str]:
    """What the fleet's account lends to one tenant's. A resumed stream is an answer of many messages."""
    to = f"accounts: [{quoted(agent.account)}]"
    for subject in agent.publish:
        many = ', response_type: "Stream"' if subject.startswith(f"{subjects.VERSION}.control.") else ""
        yield f"      {{ service: {quoted(subject)}, {to}{many} }}\n"
    for subject in agent.subscribe:
        yield f"      {{ stream: {quoted(subject)}, {to} }}\n"


def _imports(agent: User) -> str:
    kinds = [("service", subject) for subject in agent.publish] + [("stream", subject) for subject in agent.subscribe]
    lines = (
        f"      {{ {kind}: {{ account: {FLEET_ACCOUNT}, subject: {quoted(subject)} }} }}\n" for kind, subject in kinds
    )
    return f"imports: [\n{''.join(lines)}    ]"


def _user(user: User, login: str) -> str:
    responses = '\n          allow_responses: { max: 1000000, expires: "10m" }' if user.answers_requests else ""
    return f"""\
      {{
        {login}
        permissions: {{
          publish: {{ allow: {_list(user.publish)} }}
          subscribe: {{ allow: {_list((f"{user.inbox_prefix}.>", *user.subscribe))} }}{responses}
        }}
      }}
"""


def _list(allowed: Iterable[str]) -> str:
    return f"[{', '.join(quoted(subject) for subject in allowed)}]"


def _tls(tls: Tls) -> str:
    """TLS may begin before the server says a word, so that nobody on the way can talk a client out of it."""
    client = f"\n  ca_file: {quoted(tls.client_ca)}\n  verify: true" if tls.client_ca else ""
    return f"""\
tls {{
  cert_file: {quoted(tls.cert)}
  key_file: {quoted(tls.key)}{client}
  min_version: "1.2"
  handshake_first: "auto"
}}
"""
