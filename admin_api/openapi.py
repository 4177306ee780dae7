"""The admin API as an OpenAPI document: what a running one serves at /openapi.json."""

import json
import sys
from typing import Any, cast

from admin_api.app import create_app
from admin_api.control_plane import ControlPlane


def document() -> dict[str, Any]:
    """Routes and models say everything; no server is needed, so none is opened."""
    return create_app(cast("ControlPlane", None)).openapi()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2, ensure_ascii=False) + "\n")
