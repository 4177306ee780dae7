"""/api/v1/models"""

from typing import Annotated

from fastapi import APIRouter, Query

from admin_api.access.principals import CurrentPrincipal
from admin_api.dependencies import Models
from admin_api.http.pagination import Paged
from admin_api.http.problems import api_problems
from admin_api.operations.models import ModelFilter, ModelPage
from contracts.subjects import Provider
from contracts.wire import Token

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("", responses=api_problems(422))
async def list_models(
    models: Models,
    caller: CurrentPrincipal,
    paging: Paged,
    tenant: Annotated[Token | None, Query()] = None,
    provider: Annotated[Provider | None, Query()] = None,
) -> ModelPage:
    """What tenants can ask for: the models of their active providers, and their aliases. A provider that cannot be
    asked right now is in `unavailable`. A page may end early; `next` says whether there is more."""
    return await models.page(ModelFilter(tenant=tenant, provider=provider), caller=caller, paging=paging)
