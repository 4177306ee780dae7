"""The tables of errors beside the vendors' SDKs: whatever an SDK raises has an error of the contract.

The SDKs are imported here, which takes seconds; what the tables make of statuses and bodies is tested without them.
"""

import inspect
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

import anthropic
import httpx2
import ollama
import openai
import pytest
from google.genai import _api_client, errors  # pyright: ignore[reportPrivateUsage]
from pydantic import SecretStr

from contracts.errors import ErrorCode
from workers.providers.anthropic import errors as of_anthropic
from workers.providers.google import errors as of_google
from workers.providers.openai import errors as of_openai
from workers.providers.shared.errors.vendor_errors import of_class

KEY = SecretStr("sk-Zx81kQpvL0aa93Jw72mmDf55")
ERROR_CLASSES = vars(import_module("anthropic._error_classes"))["ERROR_CLASSES"]
WITH_A_CODE = {(status, code): error for (status, code), error in ERROR_CLASSES.items() if code}
"""Anthropic's classes for single causes, by status and the code of the cause."""


class OfANewVersion(Exception):
    """An exception of an SDK's next version, of no class that is known."""


def below(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(below(child) for child in error.__subclasses__()))


def defined(*modules: ModuleType) -> set[type[Exception]]:
    """The exceptions that are in the modules of an SDK, without those of other libraries and warnings."""
    return {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and not issubclass(value, Warning)
        and value.__module__.startswith(("anthropic", "openai", "google.genai", "ollama"))
    }


def names(errors: Iterable[type[Exception]]) -> set[str]:
    return {error.__name__ for error in errors}


SDK_ERRORS = {
    "openai": names(below(openai.APIError) | defined(import_module("openai._exceptions"))),
    "anthropic": names(
        {error for (_, code), error in ERROR_CLASSES.items() if not code}
        | defined(import_module("anthropic._exceptions"))
    ),
    "google": names(below(errors.APIError) | defined(errors, _api_client)),
}
"""Of OpenAI's and Google's SDK also every API error wherever it is defined. The errors of OpenAI's further parts
(agents, websockets, browsers) are no call's of ours, and fall to OpenAIError; likewise those of Google's Interactions
API."""
TABLES = {
    "openai": of_openai.BY_SDK_CLASS,
    "anthropic": of_anthropic.BY_SDK_CLASS,
    "google": of_google.BY_SDK_CLASS,
}


@pytest.mark.parametrize(
    ("vendor", "error"), [(vendor, error) for vendor, errors in SDK_ERRORS.items() for error in sorted(errors)]
)
def test_every_error_of_the_sdk_is_mapped(vendor: str, error: str) -> None:
    assert error in TABLES[vendor]


@pytest.mark.parametrize("vendor", TABLES)
def test_no_mapping_has_outlived_its_class(vendor: str) -> None:
    assert set(TABLES[vendor]) <= SDK_ERRORS[vendor]


def test_every_error_of_ollamas_sdk_has_a_counterpart_here() -> None:
    """RequestError is raised before a call, for a request that we write otherwise; ResponseError is `from_body`."""
    assert names(defined(ollama, import_module("ollama._types"))) == {"RequestError", "ResponseError"}


def test_no_cause_of_anthropic_has_outlived_its_class() -> None:
    assert set(of_anthropic.BY_ERROR_CODE) <= {code for _, code in WITH_A_CODE}


@pytest.mark.parametrize(("status", "code"), sorted(WITH_A_CODE))
def test_every_cause_has_an_error_that_fits_its_class(status: int, code: str) -> None:
    body = {"type": "error", "error": {"type": "", "message": "x", "details": {"error_code": code}}}
    found = of_anthropic.ERRORS.from_body(body, provider="anthropic", key=None, status=status)
    by_class = of_class(WITH_A_CODE[status, code].__new__(WITH_A_CODE[status, code]), of_anthropic.BY_SDK_CLASS)
    assert code in of_anthropic.BY_ERROR_CODE or isinstance(found, by_class)


@pytest.mark.parametrize(("status", "code"), sorted(cause for cause in WITH_A_CODE if cause[0] == 429))
def test_of_every_429_it_is_known_whether_waiting_helps(status: int, code: str) -> None:
    assert status == 429
    assert code in of_anthropic.BY_ERROR_CODE


def test_a_connection_error_of_openai_names_the_host_and_the_reason_but_no_key() -> None:
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:1/v1/chat/completions"))
    error.__cause__ = httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY.get_secret_value()}'")
    found = of_openai.ERRORS.from_sdk(error, provider="openai", key=KEY, host="127.0.0.1:1")
    assert found.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert found.message.startswith("openai cannot be used at 127.0.0.1:1: LocalProtocolError: Illegal header value")
    assert "Zx81" not in found.message


def test_a_connection_error_of_anthropic_names_the_host_and_the_reason_but_no_key() -> None:
    error = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:1/v1/messages"))
    error.__cause__ = httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY.get_secret_value()}'")
    found = of_anthropic.ERRORS.from_sdk(error, provider="anthropic", key=KEY, host="127.0.0.1:1")
    assert found.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert found.message.startswith("anthropic cannot be used at 127.0.0.1:1: LocalProtocolError: Illegal header value")
    assert "Zx81" not in found.message


@pytest.mark.parametrize("vendor", [of_openai, of_anthropic, of_google])
def test_an_exception_of_no_known_class_is_our_own_error(vendor: ModuleType) -> None:
    failure = OfANewVersion(f"key {KEY.get_secret_value()}")
    found = vendor.ERRORS.from_sdk(failure, provider="p", key=KEY, host="h.invalid")
    assert found.code == ErrorCode.INTERNAL
    assert found.message == "p cannot be used at h.invalid: OfANewVersion: key [redacted]"


def test_a_misuse_of_openais_sdk_is_our_own_error() -> None:
    found = of_openai.ERRORS.from_sdk(
        openai.OpenAIError("no client"), provider="openai", key=KEY, host="api.openai.com"
    )
    assert found.code == ErrorCode.INTERNAL


def test_a_misuse_of_anthropics_sdk_is_our_own_error() -> None:
    found = of_anthropic.ERRORS.from_sdk(
        anthropic.AnthropicError("no"), provider="anthropic", key=KEY, host="api.anthropic.com"
    )
    assert found.code == ErrorCode.INTERNAL


def test_the_words_beside_an_error_that_is_only_true_count() -> None:
    body = {"error": True, "message": "context length exceeded"}
    response = httpx2.Response(400, json=body, request=httpx2.Request("POST", "http://x.invalid"))
    error = of_openai.ERRORS.from_sdk(
        openai.BadRequestError("no", response=response, body=True), provider="openai", key=None, host="x.invalid"
    )
    assert error.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED


def test_what_googles_sdk_cannot_read_is_unavailable() -> None:
    found = of_google.ERRORS.from_sdk(
        errors.UnknownApiResponseError("no JSON"), provider="google", key=KEY, host="127.0.0.1:1"
    )
    assert (found.code, found.message.split(":")[0]) == (
        ErrorCode.PROVIDER_UNAVAILABLE,
        "google cannot be used at 127.0.0.1",
    )
