"""What an import does with one key: a pure decision from what was found and what the admin API says of the provider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.providers import DEFAULT_KEY, Endpoint, ProviderConfig
from fleet.operator.key_import.rows import FoundKey
from runtime.sealing import fingerprint

_WHOLE = 100
"""All of the traffic, in percent."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants for a key whose provider has another one: a part of the traffic, or the other's place."""

    share: int | None = None
    """In percent; None when no share was asked for."""
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Add:
    """The tenant has no such provider. It gets one, whose default key this is."""

    config: Mapping[str, Any]
    what: str = "is the key of a new provider"
    """What the key is then, for the line that is printed."""


@dataclass(frozen=True, slots=True)
class Join:
    """The provider gets the key as a further one. It is first tried at an endpoint of its own without traffic.

    `trial`, `undo` and `then` are bodies of a PUT of the provider.
    """

    provider_id: str
    endpoint: str
    """Where it is tried."""
    trial: Mapping[str, Any] | None
    """What adds that endpoint; None when it is there already."""
    undo: Mapping[str, Any]
    """What takes the trial away when it fails."""
    then: Mapping[str, Any]
    """What is put when the trial works."""
    what: str
    """What the key is then, for the line that is printed."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing is left to do: `what` the key is already."""

    what: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It is not clear what to do with the key; `why` says what is missing."""

    why: str


Plan = Add | Join | Keep | Refuse


def plan(found: FoundKey, provider: Mapping[str, Any] | None, wish: Wish) -> Plan:
    """What to do with the key that was found. `provider` is the tenant's active one, as the admin API shows it; None
    when there is none."""
    if provider is None:
        fields = found.endpoint.model_dump(mode="json", exclude_unset=True)
        return Add(fields if fields.keys() <= {"base_url"} else {"endpoints": [fields]})
    mark = fingerprint(found.secret)
    known = next((key["name"] for key in provider["keys"] if key["fingerprint"] == mark), None)
    if known == DEFAULT_KEY:
        return Keep("is the default key")
    name = known or f"imported-{mark}"
    if wish.share is None and not wish.replaces:
        if known:
            return Keep(f"is the key {name}")
        return Refuse(
            f"{found.provider} has another key; give this one a share of the traffic with --weight, or the other's "
            "place with --replace"
        )
    now: Mapping[str, Any] = provider["config"]
    endpoints = ProviderConfig.model_validate(now).all_endpoints()
    others = [endpoint for endpoint in endpoints if endpoint.key != name]
    own = [endpoint for endpoint in endpoints if endpoint.key == name]
    tried = own or [_beside(found, name, others)]
    secret = found.secret.get_secret_value()
    if wish.replaces:
        rest = _with_endpoints(now, _weighted(others, _WHOLE)) if own else now
        then = {"api_key": secret, "api_keys": {name: None}, "config": rest}
        what = "is the default key now"
    else:
        share = wish.share if wish.share is not None and others else _WHOLE
        then = {"config": _with_endpoints(now, [*_weighted(others, _WHOLE - share), *_weighted(tried, share)])}
        what = f"has {share} % of the traffic"
        if own and then["config"] == now:
            return Keep(what)
    new_key = {} if known else {"api_keys": {name: secret}}
    return Join(
        provider_id=provider["id"],
        endpoint=tried[0].name,
        trial=None if own else {**new_key, "config": _with_endpoints(now, [*others, *tried])},
        undo={"api_keys": dict.fromkeys(new_key.get("api_keys", {})), "config": now},
        then=then,
        what=what,
    )


def _weighted(endpoints: Sequence[Endpoint], total: int) -> list[Endpoint]:
    """The endpoints with weights that add up to about `total`, in the proportions that they have. A weight of 0 stays
    0, unless all weights are 0."""
    weights = [endpoint.weight for endpoint in endpoints]
    if not any(weights):
        weights = [1] * len(weights)
    scaled = [max(round(weight * total / sum(weights)), 1) if weight and total else 0 for weight in weights]
    return [e.model_copy(update={"weight": weight}) for e, weight in zip(endpoints, scaled, strict=True)]


def _beside(found: FoundKey, name: str, others: Sequence[Endpoint]) -> Endpoint:
    """A further endpoint, for the key `name`: at the address of the others, unless the source names another one."""
    own = found.endpoint
    at = others[0] if others and own.base_url in (None, others[0].base_url) else own
    return at.model_copy(update={"name": name, "key": name, "weight": 0, "auth": own.auth})


def _with_endpoints(config: Mapping[str, Any], endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The provider's configuration with these endpoints in place of its own."""
    rest = {name: value for name, value in config.items() if name not in ("base_url", "endpoints")}
    fields = [e.model_dump(mode="json", exclude_unset=True, exclude_none=True) for e in endpoints]
    return rest | {"endpoints": fields}
