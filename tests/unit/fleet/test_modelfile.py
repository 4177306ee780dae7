"""Modelfiles are read as Ollama reads them."""

import re
from typing import Any

import pytest

from fleet.operator.modelfile import NoModelfile, parse

WHOLE = '''
# A plumber.
FROM llama3.2
PARAMETER temperature 0.3
parameter num_ctx 8192
PARAMETER use_mmap false
PARAMETER stop "<|end|>"
PARAMETER stop END
SYSTEM """You are
  Mario. # no comment
"""
TEMPLATE "{{ .Prompt }}"
LICENSE MIT
MESSAGE user Is it "a me"?
MESSAGE assistant """It
is."""
'''


def test_every_instruction_is_a_field_of_the_request() -> None:
    made = parse(WHOLE)
    assert made.base == "llama3.2"
    assert made.fields == {
        "parameters": {"temperature": 0.3, "num_ctx": 8192, "use_mmap": False, "stop": ["<|end|>", "END"]},
        "system": "You are\n  Mario. # no comment\n",
        "template": "{{ .Prompt }}",
        "license": ["MIT"],
        "messages": [{"role": "user", "content": 'Is it "a me"?'}, {"role": "assistant", "content": "It\nis."}],
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SYSTEM hello", "no FROM"),
        ("FROM ./weights.gguf", "line 1: FROM names a file"),
        ("FROM /models/x", "line 1: FROM names a file"),
        ("FROM x\nADAPTER ./lora.safetensors", "line 2: ADAPTER names a file"),
        ("FROM x\nDANCE now", "line 2: there is no instruction 'DANCE'"),
        ("FROM x\nSYSTEM", "line 2: an instruction and its value"),
        ('FROM x\nSYSTEM """never', 'line 2: its """ is never closed'),
        ("FROM x\nPARAMETER seed", "line 2: PARAMETER needs"),
        ("FROM x\nMESSAGE mario hello", "line 2: MESSAGE begins with"),
    ],
)
def test_what_is_no_modelfile_says_where(text: str, why: str) -> None:
    with pytest.raises(NoModelfile, match=re.escape(why)):
        parse(text)


@pytest.mark.parametrize(("value", "read"), [("7", 7), ("0.5", 0.5), ("true", True), ('"7"', "7"), ("q4_0", "q4_0")])
def test_a_parameter_has_its_type(value: str, read: Any) -> None:
    found = parse(f"FROM x\nPARAMETER p {value}").fields["parameters"]["p"]
    assert (found, type(found)) == (read, type(read))
