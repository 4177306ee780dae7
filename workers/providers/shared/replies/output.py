"""What a reply says, collected until it is passed on, and what it must not lack to be an answer."""

from contracts.events import FinishReason, ToolCallDelta
from workers.providers.base import Chunk
from workers.providers.shared.replies import reply_arguments, tool_calls


class Output:
    """The output of one reply."""

    def __init__(self) -> None:
        self.text: list[str] = []
        """Texts that have not been passed on yet, none of them empty; `reasoning` and `refusal` likewise."""
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self._new_calls: dict[int, ToolCallDelta] = {}
        self._new_arguments: dict[int, list[str]] = {}
        """What follows the arguments that stand in the new calls: fragments, which are many where a call is long."""
        self._call_pieces = 0
        self.calls = 0
        """How many calls there are in all."""
        self._too_many_calls = False
        self._ids: set[str] = set()
        self._some_nameless = False
        self._answered = False

    def begin_call(self, *, id: str | None, name: str | None, arguments: str | None = None) -> ToolCallDelta:  # noqa: A002
        """Begins a call under an id of its own: agents answer a call by its id, and some servers give one id to two."""
        name = (name or "").strip()
        call = tool_calls.begun(self.calls, id=id, name=name, arguments=arguments)
        if call.id in self._ids:
            call = tool_calls.begun(self.calls, id=None, name=name, arguments=arguments)
        self._ids.add(call.id or "")
        self._some_nameless = self._some_nameless or not name
        self._new_calls[call.index] = call
        self._call_pieces += 1
        self.calls += 1
        return call

    def add_whole_call(self, *, id: str | None, name: str | None, arguments: str) -> ToolCallDelta | None:  # noqa: A002
        """Adds a call with all its arguments. None for a blank call, as some servers put beside their texts: it has no
        id, name or arguments."""
        if not (id or name or arguments != reply_arguments.NONE):
            return None
        if self.calls >= tool_calls.MOST_CALLS:
            self._too_many_calls = True
            return None
        return self.begin_call(id=id, name=name, arguments=arguments)

    def add_arguments(self, index: int, fragment: str, *, pieces: int = 1) -> None:
        """`pieces`: how many of the vendor's deltas the fragment is."""
        if index not in self._new_calls:
            self._new_calls[index] = ToolCallDelta(index=index)
        self._new_arguments.setdefault(index, []).append(fragment)
        self._call_pieces += pieces

    def take(self) -> Chunk | None:
        """What is new since the last time, merged."""
        if not (self.reasoning or self.refusal or self._new_calls):
            # Nearly every chunk is text alone.
            if not self.text:
                return None
            chunk = Chunk("".join(self.text), pieces=len(self.text))
            self.text.clear()
            self._answered = True
            return chunk
        for index, fragments in self._new_arguments.items():
            call = self._new_calls[index]
            arguments = "".join([call.arguments or "", *fragments])
            self._new_calls[index] = call.model_copy(update={"arguments": arguments})
        chunk = Chunk(
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
            tool_calls=tuple(self._new_calls.values()),
            pieces=len(self.text) + len(self.reasoning) + len(self.refusal) + self._call_pieces,
        )
        self._answered = self._answered or bool(chunk.text or chunk.refusal or chunk.tool_calls)
        self.text.clear()
        self.reasoning.clear()
        self.refusal.clear()
        self._new_calls.clear()
        self._new_arguments.clear()
        self._call_pieces = 0
        return chunk

    def finish_reason(self, said: FinishReason) -> FinishReason:
        """`said`, unless the calls speak against it: an agent that is told `tool_calls` without any asks for ever."""
        if said == "stop" and self.calls:
            return "tool_calls"
        return "stop" if said == "tool_calls" and not self.calls else said

    def warnings(self, provider: str, said: FinishReason, *, explained: bool = False) -> tuple[str, ...]:
        """What is missing in the answer. `explained`: another warning says why it is empty."""
        found: list[str] = []
        if said == "tool_calls" and not self.calls:
            found.append(f"{provider} ended for a tool call and made none")
        elif said == "stop" and not self._answered and not explained:
            found.append(f"{provider} gave an empty answer")
        if self._too_many_calls:
            found.append(f"{provider} made more tool calls than a reply can have; the last ones are left out")
        if self._some_nameless:
            found.append(f"{provider} made a tool call without a name")
        return tuple(found)
