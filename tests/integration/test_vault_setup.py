"""Setting up a Vault that is not ready for it yet, played by a web server: the real one is so for milliseconds."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from fleet.deploy.vault_policies import MOUNT
from fleet.local import vault_api
from fleet.local.vault_api import VaultApi, VaultRefused
from tests.web import serving


@dataclass
class BecomingActive:
    """What OpenBao 2.7.2 does meanwhile: a mount fails, is listed all the same, and is gone when the node is active."""

    is_active: bool = False
    mounts: dict[str, object] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        match request.method, request.path:
            case "GET", "/v1/sys/health":
                return web.json_response({}, status=200 if self.is_active else 429)
            case "GET", "/v1/sys/mounts":
                return web.json_response({"data": self.mounts})
            case "POST", path if path == f"/v1/sys/mounts/{MOUNT}":
                self.mounts[f"{MOUNT}/"] = await request.json()
                return web.json_response({"errors": ["cannot write"]}, status=204 if self.is_active else 500)
            case _:
                return web.json_response({"data": {}})

    def become_active(self) -> None:
        self.is_active = True
        self.mounts.clear()


@pytest.fixture
def becoming() -> BecomingActive:
    return BecomingActive()


@pytest.fixture
async def root(becoming: BecomingActive) -> AsyncGenerator[VaultApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", becoming.answer)
    async with serving(app) as port:
        yield VaultApi(f"http://127.0.0.1:{port}", "root")


async def test_the_key_store_is_mounted_once_the_server_keeps_it(root: VaultApi, becoming: BecomingActive) -> None:
    for _ in range(2):  # a mount that failed is listed when it is looked for the second time
        with pytest.raises(VaultRefused, match="active") as refused:
            await vault_api.configure(root, {})
        assert refused.value.status == 503
    becoming.become_active()

    await vault_api.configure(root, {})

    assert f"{MOUNT}/" in becoming.mounts
