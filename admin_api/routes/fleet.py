"""/api/v1/fleet"""

from fastapi import APIRouter

from admin_api.access.principals import CurrentPrincipal
from admin_api.dependencies import Nats
from admin_api.http.problems import api_problems
from admin_api.operations import fleet_state
from admin_api.operations.fleet_state import FleetState

router = APIRouter(prefix="/api/v1/fleet", tags=["fleet"])


@router.get("", responses=api_problems())
async def get_fleet(nats: Nats, caller: CurrentPrincipal) -> FleetState:
    """The workers that are there, what waits for each pool, and the size of each stream. For all tenants only."""
    return await fleet_state.state(nats, caller=caller)
