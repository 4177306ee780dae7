"""The tool calls of a reply in OpenAI's format, put together from their deltas.

By the format each call has an index and an id, and its first delta has its name. Servers break every one of these
rules: all calls have index 0, ids are missing, empty, shared or another one in each delta, the name comes late, in
pieces or again and again, and deltas hold calls that nobody made. What tells calls apart is then the JSON of their
arguments: where one object has ended, another one begins another call.

A call is passed on when its arguments begin, because its name is certain only then, and without arguments at the
reply's end. Arguments that are a text inside a text are passed on at the end, too, as the object that they hold.
"""

import re
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.events import ToolCallDelta
from workers.providers.shared.json_text import EndFinder
from workers.providers.shared.replies import reply_arguments, tool_calls

_NO_ARGUMENTS = frozenset({"", "{}", "[]", "null"})
"""What stands for the arguments of a call without any, or of one whose arguments are still to come."""
_OPENS = re.compile(r"\s*[{\[]")
_OPENS_OBJECT = re.compile(r"\s*\{")
_BEFORE_A_VALUE = ":,["


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None
    parameters: Any = None
    """Stands in place of `arguments` where a server passes on what Llama's models write."""


class Custom(msgspec.Struct, gc=False):
    """A call of a tool that takes a text in place of an object."""

    name: str | None = None
    input: Any = None


class CallDelta(msgspec.Struct, gc=False):
    index: int | None = None
    id: Any = None
    function: Function | None = None
    custom: Custom | None = None
    name: str | None = None
    """Some servers put the name and the arguments beside the id in place of into `function`, the arguments also as
    Anthropic's `input`."""
    arguments: Any = None
    input: Any = None
    extra_content: Any = None
    """Gemini's thought signature, at its OpenAI address. The model wants it back, under whichever of the three
    names."""
    provider_specific_fields: Any = None
    """LiteLLM's place for it."""
    thought_signature: Any = None

    def said(self) -> tuple[str, str, Any]:
        """The id and the name, each empty where there is none, and the arguments as they came."""
        if self.id is None or isinstance(self.id, bool):
            call_id = ""
        elif isinstance(self.id, int):  # some servers number their calls
            call_id = str(self.id)
        else:
            call_id = self.id if isinstance(self.id, str) and self.id.strip() else ""
        function = self.function
        if function is not None and (function.name is not None or function.arguments is not None):
            name, arguments = function.name, function.arguments
            if arguments is None:
                arguments = function.parameters
        elif self.custom is not None:
            name, arguments = self.custom.name, self.custom.input
        else:
            name, arguments = self.name, self.input if self.arguments is None else self.arguments
        return call_id, name.strip()[: tool_calls.MAX_NAME_CHARS] if name else "", arguments

    def wanted_back(self) -> dict[str, JsonValue]:
        """What the server wants to see again beside the call; mostly empty."""
        if not (self.extra_content or self.provider_specific_fields or self.thought_signature):
            return {}
        further = {
            "extra_content": self.extra_content,
            "provider_specific_fields": self.provider_specific_fields,
            "thought_signature": self.thought_signature,
        }
        return {name: value for name, value in further.items() if value}


class _Call:
    """One call, as far as it is known."""

    def __init__(self, *, index: int | None, id: str, name: str, shares_id: bool) -> None:  # noqa: A002
        self.server_index = index
        self.id = id
        """The id that the server gave; empty when it gave none."""
        self.shares_id = shares_id
        """Another call has it, too, so that this one needs an id of ours."""
        self.name = name
        self.index: int | None = None
        """Our own index; None when it has not been passed on yet."""
        self.is_begun = False
        """Whether its id and name have been passed on."""
        self.arguments: list[str] = []
        """The fragments of its arguments that have not been passed on."""
        self.held: list[str] = []
        """All fragments of its arguments, to know what only repeats them."""
        self.ended_with: str | None = None
        """All its arguments as one text, put together once when it is asked for after their end."""
        self.whole = ""
        """The arguments so far, when each delta holds all of them; empty: each holds what is new."""
        self.quoted: list[str] = []
        """Arguments that begin as a text inside the text, until it is known what that holds."""
        self.has_arguments = False
        self.placeholder = ""
        """What are its arguments if nothing follows: an empty object, or a number, which can be no arguments."""
        self.value = EndFinder()
        self.wanted_back: dict[str, JsonValue] = {}

    def is_other_than(self, *, id: str, name: str, arguments: str) -> bool:  # noqa: A002
        """Whether a delta that was addressed to this call begins another one."""
        if not (id or name):
            return False
        opens = bool(_OPENS.match(arguments))
        if id and self.id and id != self.id:
            return bool(name) or (self.value.ended and opens)
        if not name or not self.name:
            return False
        if name != self.name:
            return self.has_arguments or bool(self.placeholder) or self.index is not None or not self.id
        if self.value.ended:
            return opens or id != self.id
        return bool(self.placeholder) and opens and not id

    def is_repeated_by(self, *, id: str, name: str, arguments: str) -> bool:  # noqa: A002
        """Whether a delta says nothing that this call has not said, whose arguments have ended."""
        if (id and id != self.id) or (name and not (id and name == self.name)):
            return False
        bare = arguments.strip()
        if bare in _NO_ARGUMENTS or not id:
            return bare in _NO_ARGUMENTS
        if self.ended_with is None:
            self.ended_with = "".join(self.held).strip()
        return bare == self.ended_with

    def new_in(self, fragment: str) -> str:
        """What of the arguments in a delta is new.

        Servers that send all of the text in each delta (DashScope's) do so with arguments. It is certain when the
        second delta begins with the first where no JSON goes on like that.
        """
        if self.whole:
            if not fragment.startswith(self.whole):
                return "" if self.whole.startswith(fragment) else fragment
            new, self.whole = fragment[len(self.whole) :], fragment
            return new
        first = self.held[0]
        if not (_OPENS_OBJECT.match(first) and fragment.startswith(first) and len(fragment) > len(first)):
            return fragment
        if self.value.ended or first.rstrip()[-1] in _BEFORE_A_VALUE:
            return fragment
        self.whole = fragment
        return fragment[len(first) :]

    def told(self, index: int) -> ToolCallDelta:
        """What is new since it was told last; `index` is ours."""
        arguments = "".join(self.arguments) or None
        self.arguments.clear()
        if self.is_begun:
            return ToolCallDelta(index=index, arguments=arguments)
        self.is_begun = True
        return tool_calls.begun(index, id=None if self.shares_id else self.id, name=self.name, arguments=arguments)


class ToolCalls:
    """Gives each call one index and one id, whatever the server numbers them as."""

    def __init__(self) -> None:
        self.too_many = False
        """Some were left out, because no model makes so many."""
        self.held_back = 0
        """Characters of arguments that came and were not passed on at once."""
        self._calls: list[_Call] = []
        self._waiting: list[_Call] = []
        """Calls that have not been passed on yet."""
        self._passed_on: list[_Call] = []
        """Calls that have been passed on, in the order of our indexes."""
        self._to_tell: dict[int, None] = {}
        """Our indexes of the calls with something new, in order."""
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    @property
    def any(self) -> bool:
        """Whether a call was passed on."""
        return bool(self._passed_on)

    @property
    def begun(self) -> bool:
        return bool(self._calls)

    @property
    def unnamed(self) -> int:
        """Calls that have arguments and no name."""
        return sum(call.has_arguments for call in self._waiting if not call.name)

    def add(self, delta: CallDelta, *, is_whole: bool = False) -> bool:
        """Whether the delta held something of a call. `is_whole`: it is a call of its own and says all about it."""
        id, name, said = delta.said()  # noqa: A001
        if isinstance(said, str):
            arguments = said
        elif said is None or isinstance(said, bool):
            arguments = ""
        else:  # the object that the text should hold
            arguments = msgspec.json.encode(said).decode()
        call = None if is_whole else self._addressed(delta.index, id=id, name=name, arguments=arguments)
        if call is not None and call.value.ended and call.is_repeated_by(id=id, name=name, arguments=arguments):
            call.wanted_back.update(delta.wanted_back())
            return False
        if call is None or call.is_other_than(id=id, name=name, arguments=arguments):
            if not (id or name or arguments.strip()):
                return False
            if len(self._calls) >= tool_calls.MOST_CALLS:
                self.too_many = True
                return False
            call = self._begin(delta.index, id=id, name=name)
        elif id or name:
            self._identify(call, id=id, name=name)
        if wanted_back := delta.wanted_back():
            call.wanted_back.update(wanted_back)
        if not isinstance(said, str) and isinstance(said, int | float) and not call.has_arguments:
            call.placeholder = arguments
        else:
            self._add_arguments(call, arguments)
        if call.index is None or call.quoted:
            self.held_back += len(arguments)
        return bool(name or arguments)

    def end(self, *, is_cut: bool) -> None:
        """The reply is over. `is_cut`: it stopped in the middle, so that arguments that are missing stay so."""
        for call in self._calls:
            if call.quoted:
                self._hold(call, reply_arguments.unquoted("".join(call.quoted)))
                call.quoted.clear()
        self._pass_on(self._waiting)
        for call in self._passed_on:
            if not call.has_arguments and (call.placeholder or not is_cut):
                self._hold(call, call.placeholder or "{}")

    def take(self) -> tuple[ToolCallDelta, ...]:
        """What is new since the last time."""
        if not self._to_tell:
            return ()
        deltas = tuple([self._passed_on[index].told(index) for index in self._to_tell])
        self._to_tell.clear()
        return deltas

    def wanted_back(self) -> list[JsonValue]:
        """What the server wants back of each call; empty when there is nothing."""
        each: list[JsonValue] = [dict(call.wanted_back) for call in self._passed_on]
        return each if any(each) else []

    def drop_wanted_back(self) -> None:
        """Forgets what the server wants back: it is more than may be kept."""
        for call in self._calls:
            call.wanted_back.clear()

    def _addressed(self, index: int | None, *, id: str, name: str, arguments: str) -> _Call | None:  # noqa: A002
        """The call that a delta belongs to by its index and its id."""
        known = self._by_id.get(id) if id else None
        if index is not None:
            here = self._by_index.get(index)
            if here is None:
                return None if name else known
            return known if known is not None and known.server_index == index else here
        last = self._calls[-1] if self._calls else None
        if known is not None or not id:
            return known or last
        continues = arguments and not name and last is not None and not last.value.ended
        return last if continues else None

    def _begin(self, index: int | None, *, id: str, name: str) -> _Call:  # noqa: A002
        call = _Call(index=index, id=id, name=name, shares_id=id in self._by_id)
        self._calls.append(call)
        self._waiting.append(call)
        if id:
            self._by_id[id] = call
        if index is not None:
            self._by_index[index] = call
        return call

    def _identify(self, call: _Call, *, id: str, name: str) -> None:  # noqa: A002
        """Takes an id that comes late, and a name that comes late, again, or in pieces."""
        if id and not call.id and call.index is None and id not in self._by_id:
            call.id = id
            self._by_id[id] = call
        if name and name != call.name and call.index is None:
            whole = name if name.startswith(call.name) else call.name + name
            call.name = whole[: tool_calls.MAX_NAME_CHARS]
        if name:
            self._tell(call)

    def _add_arguments(self, call: _Call, fragment: str) -> None:
        """Takes a fragment, and parts it where one value has ended and another begins."""
        if not call.has_arguments:
            bare = fragment.strip()
            if call.quoted or bare.startswith('"'):
                call.quoted.append(fragment)
                return
            if bare in _NO_ARGUMENTS:
                call.placeholder = call.placeholder or (bare and "{}")
                return
        if call.whole or len(call.held) == 1:
            fragment = call.new_in(fragment)
        at = 0
        while True:
            end = call.value.feed(fragment, at)
            if end == len(fragment) or not _OPENS.match(fragment, end) or len(self._calls) >= tool_calls.MOST_CALLS:
                self._hold(call, fragment[at:])
                return
            if not call.has_arguments and fragment[at:end].strip() == "{}":
                call.value = EndFinder()
            else:
                self._hold(call, fragment[at:end])
                call = self._begin(call.server_index, id="", name=call.name)
            at = end

    def _hold(self, call: _Call, arguments: str) -> None:
        if arguments:
            call.arguments.append(arguments)
            call.held.append(arguments)
            call.has_arguments = True
            self._tell(call)

    def _tell(self, call: _Call) -> None:
        """Notes that a call has something new to pass on, which it has once its name and arguments are there."""
        if not (call.name and call.arguments):
            return
        if call.index is None:
            self._pass_on(self._waiting[: self._waiting.index(call) + 1])
        else:
            self._to_tell[call.index] = None

    def _pass_on(self, calls: list[_Call]) -> None:
        """Gives those that have a name their places, in the order in which they began."""
        for call in calls:
            if call.name:
                call.index = len(self._passed_on)
                self._passed_on.append(call)
                self._to_tell[call.index] = None
        self._waiting = [call for call in self._waiting if call.index is None]
