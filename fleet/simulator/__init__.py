"""The vendors' wire formats over real HTTP, with scripted speed and faults, and a ledger of what was served."""

from fleet.simulator.script import Script, ScriptedToolCall, ScriptedUsage
from fleet.simulator.server import Simulator

__all__ = ["Script", "ScriptedToolCall", "ScriptedUsage", "Simulator"]
