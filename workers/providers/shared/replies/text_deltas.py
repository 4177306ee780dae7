"""The text of a reply, put together from deltas that hold what is new, or, from some servers, all of it so far.

DashScope without `incremental_output`, and gateways before it, send the whole text in each delta. Nothing in a chunk
says so, and an honest answer may begin with `ha` and go on with `haha`. So it is taken for certain only when, from the
reply's first delta on, at least three deltas each begin with the one before, that is more than a few letters, and the
text is no repetition. Until then the deltas in question are held back; for any other reply that ends with its second.
"""

_ENOUGH_DELTAS = 3
_ENOUGH_LETTERS = 8
"""So many letters the last delta but one must have, without blanks."""


class TextDeltas:
    """The text of one reply."""

    def __init__(self) -> None:
        self.has_come = False
        self.new: list[str] = []
        """What has not been taken yet."""
        self.are_usual = False
        """The deltas hold what is new; there is nothing more to find out, and nothing is held back."""
        self._chain: list[str] = []
        """The deltas so far, each of which begins with the one before; all but the first are held back."""
        self._whole = ""
        """The text so far, when the deltas are certain to hold it."""

    def add(self, delta: str) -> None:
        """Takes a delta that is not empty."""
        self.has_come = True
        if self.are_usual:
            self.new.append(delta)
        elif not self._whole:
            self._add_uncertain(delta)
        elif delta.startswith(self._whole):
            self.new.append(delta[len(self._whole) :])
            self._whole = delta
        elif not self._whole.startswith(delta):
            self.new.append(delta)

    def add_whole(self, text: str) -> None:
        """Takes what a whole message says, which counts for as long as no delta has come."""
        if text and not self._chain:
            self.has_come = True
            self.new.append(text)

    def take(self) -> str:
        """What is new since the last time."""
        text = "".join(self.new)
        self.new.clear()
        return text

    def end(self) -> None:
        """The reply is over: what was held back is new."""
        if not self._whole:
            self.new.extend(self._chain[1:])
            del self._chain[1:]

    def _add_uncertain(self, delta: str) -> None:
        """Takes a delta while it is open what the deltas hold."""
        if not self._chain:
            self.new.append(delta)
        elif len(delta) == len(self._chain[-1]) or not delta.startswith(self._chain[-1]):
            self.end()
            self.are_usual = True
            self.new.append(delta)
            return
        self._chain.append(delta)
        if len(self._chain) < _ENOUGH_DELTAS:
            return
        first, before = self._chain[0], self._chain[-2]
        repetition = first * (len(delta) // len(first) + 1)
        if len("".join(before.split())) >= _ENOUGH_LETTERS and not repetition.startswith(delta):
            self._whole = delta
            self.new.append(delta[len(first) :])
