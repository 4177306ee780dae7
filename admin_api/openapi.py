"""The admin API as an OpenAPI document: what a running one serves at /openapi.json."""

import json
import sys
from typing import Any

from admin_api.app import create_app


def document() -> dict[str, Any]:
    """The document that the routes and models make. No server is needed, so none is opened."""
    return create_app().openapi()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2, ensure_ascii=False) + "\n")
