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


def test_a_provider_without_an_adapter_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match=r"no adapter for 'acme'; there are: .*openai"):
        registry.load("acme", Egress())


def test_only_the_needed_sdk_is_imported() -> None:
    assert not imported("openai", with_adapter="mock")


def test_no_vocabulary_is_loaded_with_an_adapter() -> None:
    assert not imported("bpe_openai", with_adapter="openai")


def imported(module: str, *, with_adapter: str) -> bool:
    code = f"""
import sys
from runtime.egress import Egress
from workers.providers import registry
registry.load({with_adapter!r}, Egress())
sys.exit({module!r} in sys.modules)
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
