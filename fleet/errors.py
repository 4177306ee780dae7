"""What a completion fails with, for agents: every one is a FleetError. `contracts.errors` draws the tree."""

from contracts.errors import *  # noqa: F403 - its list names the errors for agents
