"""What a request says of its tools as a whole."""

from contracts.requests import CompletionRequest, NamedToolChoice


def offers_tools(request: CompletionRequest, *, provider: str) -> bool:
    """Whether the model is shown tools; further options may hold tools of the vendor's own."""
    return bool(request.tools or request.provider_options.get(provider, {}).get("tools"))


def forces_a_call(request: CompletionRequest) -> bool:
    """Whether the model has to call a tool: any one, or a named one."""
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedToolChoice)
