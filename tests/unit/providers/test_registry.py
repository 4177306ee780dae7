"""Adapters are found by the provider's name."""

import subprocess
import sys

import pytest

from contracts.subjects import Provider
from runtime.egress import Egress
from workers.providers import registry


@pytest.mark.parametrize("provider", registry.available())
def test_an_adapter_knows_its_name(provider: str) -> None:
    assert registry.load(provider, Egress()).name == Provider(provider)


@pytest.mark.parametrize(
    ("model", "vendor"),
    [
        ("gpt-3.5-turbo-0613", "openai"),
        ("o1-preview", "openai"),
        ("claude-2.1", "anthropic"),
        ("gemini-1.0-pro", "google"),
        ("llama-3", None),
    ],
)
def test_a_name_that_no_catalogue_lists_tells_its_vendor(model: str, vendor: str | None) -> None:
    assert registry.vendor_named_by(model) == vendor


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_what_is_known_of_models_needs_no_sdk(provider: str) -> None:
    sdk = "google.genai" if provider == "google" else provider
    assert not imported(sdk, by=f"registry.models_of({provider!r})")


def test_a_provider_without_an_adapter_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match=r"no adapter for 'acme'; there are: .*openai"):
        registry.load("acme", Egress())


def test_only_the_needed_sdk_is_imported() -> None:
    assert not imported("openai", by="registry.load('mock', Egress())")


def test_no_vocabulary_is_loaded_with_an_adapter() -> None:
    assert not imported("bpe_openai", by="registry.load('openai', Egress())")


def imported(module: str, *, by: str) -> bool:
    code = f"""
import sys
from runtime.egress import Egress
from workers.providers import registry
{by}
sys.exit({module!r} in sys.modules)
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
