"""`fleet models` against the simulator: the calls, and the commands as a user types them."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from pydantic import SecretStr

from fleet.operator.ollama import OllamaRefused, OllamaServer, Step
from fleet.simulator import Simulator
from fleet.simulator.ollama import LAYER_BYTES
from fleet.simulator.tcp import listening


@pytest.fixture
async def simulator() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


async def fleet(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of a command."""
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fleet",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )
    out, err = await command.communicate()
    return command.returncode, out.decode(), err.decode()


async def test_a_pull_tells_how_far_it_is(simulator: Simulator) -> None:
    server = OllamaServer(simulator.url)
    steps = await asyncio.to_thread(lambda: list(server.pull("llama9")))
    assert steps[0] == Step("pulling manifest")
    layers = [step for step in steps if step.digest]
    assert [step.completed_bytes for step in layers][-1] == layers[0].total_bytes == LAYER_BYTES
    assert steps[-1] == Step("success")
    assert "llama9:latest" in [model.name for model in await asyncio.to_thread(server.models)]


async def test_an_error_in_the_progress_is_raised(simulator: Simulator) -> None:
    server = OllamaServer(f"{simulator.url}/api/")
    with pytest.raises(OllamaRefused, match="file does not exist"):
        await asyncio.to_thread(lambda: list(server.pull("absent-model")))


@pytest.mark.parametrize("says", [b"", b'{"status": "pulling manifest"}\n', b'{"status": "x"'])
async def test_a_server_that_stops_early_has_not_done_it(says: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + says)

    async with listening(answer) as port:
        ollama = OllamaServer(f"http://127.0.0.1:{port}")
        with pytest.raises(OllamaRefused, match="stopped before it was done"):
            await asyncio.to_thread(lambda: list(ollama.pull("llama9")))


async def test_a_key_goes_along_and_to_no_other_server(simulator: Simulator) -> None:
    with pytest.raises(OllamaRefused, match="401: unauthorized"):
        await asyncio.to_thread(OllamaServer(simulator.url, key=SecretStr("sk-invalid-1")).models)

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = simulator.url.encode()
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: %b/api/tags\r\ncontent-length: 0\r\n\r\n" % where)

    async with listening(redirect) as port:
        ollama = OllamaServer(f"http://127.0.0.1:{port}", key=SecretStr("k-1"))
        with pytest.raises(OllamaRefused, match="answered 302"):
            await asyncio.to_thread(ollama.models)


@pytest.mark.parametrize("url", ["127.0.0.1:11434", "file:///etc", "ftp://example.org"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(OllamaRefused, match="no address of a server"):
        OllamaServer(url)


async def test_the_commands_pull_create_and_list(simulator: Simulator, tmp_path: Path) -> None:
    at = ("--base-url", simulator.url)
    code, out, _ = await fleet("models", "pull", "llama9", *at)
    assert (code, "success" in out, "2.0/2.0 GB" in out) == (0, True, True)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM llama9\nSYSTEM You are Mario.\n")
    code, out, _ = await fleet("models", "create", "mario", "--file", str(modelfile), *at)
    assert (code, "success" in out) == (0, True)
    code, out, _ = await fleet("models", "list", *at)
    assert (code, "mario:latest" in out, "llama9:latest" in out) == (0, True, True)


async def test_a_command_that_is_refused_says_why_in_one_line(simulator: Simulator) -> None:
    code, _, err = await fleet("models", "pull", "absent-model", "--base-url", simulator.url)
    assert (code, err.count("\n")) == (1, 1)
    assert "file does not exist" in err
