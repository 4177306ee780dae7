"""How a role proves to Vault who it is: by an AppRole, a Kubernetes service account, or a token it was given."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hvac.exceptions

from runtime.settings import VaultSettings


class VaultDenied(Exception):
    """Vault answers, and refuses this role."""


def way_in(settings: VaultSettings) -> Callable[[Any], Any] | None:
    """What logs an hvac client in and returns Vault's answer, or raises VaultDenied.

    It is None when the settings bring a token, which the client has for good.
    """
    if settings.vault_k8s_role is not None:
        return partial(_by_service_account, settings, settings.vault_k8s_role)
    if settings.vault_role_id is not None:
        return partial(_by_approle, settings, settings.vault_role_id)
    return None


def _by_approle(settings: VaultSettings, role_id: str, client: Any) -> Any:
    secret_id = settings.vault_secret_id
    try:
        return client.auth.approle.login(role_id=role_id, secret_id=secret_id.get_secret_value() if secret_id else None)
    except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden) as exc:
        raise VaultDenied("the AppRole was refused; check VAULT_ROLE_ID and VAULT_SECRET_ID") from exc


def _by_service_account(settings: VaultSettings, role: str, client: Any) -> Any:
    try:
        token = Path(settings.vault_k8s_token_path).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise VaultDenied(f"the service account's token at VAULT_K8S_TOKEN_PATH cannot be read: {exc}") from exc
    try:
        return client.auth.kubernetes.login(role=role, jwt=token, mount_point=settings.vault_k8s_mount)
    except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden, hvac.exceptions.InvalidPath) as exc:
        raise VaultDenied(
            f"this service account was refused the role {role}; check VAULT_K8S_ROLE, VAULT_K8S_MOUNT and the service "
            "accounts that the role is bound to"
        ) from exc
