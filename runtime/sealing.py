"""Sealing of vendor keys before they enter Vault: AES-256-GCM, bound to tenant, provider and name.

A sealed key reads `fleet1.<key id>.<base64url of nonce | ciphertext | tag>`. The key id (first 8 hex digits of the
sealing key's SHA-256) tells which key of the ring opens it, so that sealing keys can rotate.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from contracts.providers import DEFAULT_KEY, key_path
from runtime.settings import SealingSettings, decode_key

_VERSION = "fleet1"
_NONCE_BYTES = 12
_MOST_KEYS = 16
"""Signatures that are looked at: a header may hold thousands."""


class UnsealError(Exception):
    """A sealed key cannot be opened: another sealing key, another tenant or provider, or altered bytes."""


def fingerprint(key: SecretStr) -> str:
    """The first 8 hex digits of the key's SHA-256: enough to recognise it, useless to guess it."""
    return hashlib.sha256(key.get_secret_value().encode()).hexdigest()[:8]


class Keyring:
    """The newest sealing key seals and signs; all of them open and verify."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ring = {hashlib.sha256(key).hexdigest()[:8]: AESGCM(key) for key in keys}
        self._signing = {key_id: _signing_key(key) for key_id, key in zip(self._ring, dict.fromkeys(keys), strict=True)}
        self._newest = next(iter(self._ring))

    @classmethod
    def from_settings(cls, settings: SealingSettings) -> "Keyring":
        """A ring of LLM_ENCRYPTION_KEY, which seals, and LLM_ENCRYPTION_KEY_PREVIOUS."""
        return cls([decode_key(k) for k in (settings.llm_encryption_key, *settings.llm_encryption_key_previous)])

    def seal(self, secret: SecretStr, *, tenant: str, provider: str, name: str = DEFAULT_KEY) -> str:
        """The vendor key as Vault may hold it: it opens only under the same tenant, provider and name."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ring[self._newest].encrypt(
            nonce, secret.get_secret_value().encode(), _bound_to(tenant, provider, name)
        )
        return f"{_VERSION}.{self._newest}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def reseal(self, sealed: str, *, tenant: str, provider: str, name: str = DEFAULT_KEY) -> str | None:
        """The same key, sealed with the newest sealing key; None when it is so already. Raises UnsealError."""
        if sealed.startswith(f"{_VERSION}.{self._newest}."):
            return None
        key = self.unseal(sealed, tenant=tenant, provider=provider, name=name)
        return self.seal(key, tenant=tenant, provider=provider, name=name)

    def unseal(self, sealed: str, *, tenant: str, provider: str, name: str = DEFAULT_KEY) -> SecretStr:
        """The vendor key that `seal` sealed for this tenant, provider and name. Raises UnsealError."""
        where = key_path(tenant=tenant, provider=provider, name=name)
        try:
            version, key_id, body = sealed.split(".")
            raw = base64.urlsafe_b64decode(body)
        except (ValueError, binascii.Error):
            raise UnsealError(f"what lies in Vault for {where} is no sealed key") from None
        if version != _VERSION or key_id not in self._ring:
            raise UnsealError(
                f"the key of {where} was sealed with another key ({key_id[:8]}); "
                "add that one to LLM_ENCRYPTION_KEY_PREVIOUS"
            )
        try:
            opened = self._ring[key_id].decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound_to(tenant, provider, name)
            )
        except (InvalidTag, ValueError):
            raise UnsealError(f"the sealed key of {where} was altered or belongs elsewhere") from None
        return SecretStr(opened.decode())

    def sign(self, message: bytes, *, purpose: str) -> str:
        """A HMAC-SHA256 that only who has a sealing key can make, as `<key id>.<hex>`, for each key of the ring.

        While sealing keys are rotated, a role that has only the one before verifies that one.
        """
        return " ".join(f"{key_id}.{_mac(key, message, purpose)}" for key_id, key in self._signing.items())

    def verify(self, signature: str, message: bytes, *, purpose: str) -> bool:
        """Whether `sign` made the signature, of this message and for this purpose, with a key that this ring has."""
        for each in signature.split(" ", _MOST_KEYS)[:_MOST_KEYS]:
            key_id, _, mac = each.partition(".")
            if key := self._signing.get(key_id):
                return hmac.compare_digest(_mac(key, message, purpose).encode(), mac.encode())
        return False

    def unguessable_id(self, of: str, *, purpose: str) -> str:
        """A name for something, the same each time, that nobody can make who has no sealing key."""
        return _mac(self._signing[self._newest], of.encode(), purpose)


def _signing_key(key: bytes) -> bytes:
    """Another key than the one that seals, so that neither use helps against the other."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fleet signing 1").derive(key)


def _mac(key: bytes, message: bytes, purpose: str) -> str:
    return hmac.new(key, purpose.encode() + b"\0" + message, hashlib.sha256).hexdigest()


def _bound_to(tenant: str, provider: str, name: str) -> bytes:
    """The associated data; names are tokens, so no two keys share one."""
    return "/".join([tenant, provider, *([] if name == DEFAULT_KEY else [name])]).encode()
