"""/api/v1/fleet"""

from fastapi import APIRouter

from admin_api import workers
from admin_api.auth import Caller
from admin_api.control_plane import Plane
from admin_api.workers import FleetState

router = APIRouter(prefix="/api/v1/fleet", tags=["fleet"])


@router.get("")
async def get_fleet(plane: Plane, caller: Caller) -> FleetState:
    """The workers that are there, what waits for each pool, and the size of each stream. For all tenants only."""
    caller.must_see(None)
    return await workers.state(plane)
