"""What the server says of a message that it delivers, in the subject that the message is acked to."""

import pytest
from nats.aio.msg import Msg

from runtime.jetstream.pull import delivered

WITHOUT_DOMAIN = "$JS.ACK.LLM_REQUESTS.mock-interactive.3.41.57.1795996799123456789.12"
WITH_DOMAIN = "$JS.ACK.hub.ACCOUNT.LLM_REQUESTS.mock-interactive.3.41.57.1795996799123456789.12"


@pytest.mark.parametrize("subject", [WITHOUT_DOMAIN, WITH_DOMAIN, f"{WITH_DOMAIN}.random"])
def test_says_what_nats_py_says(subject: str) -> None:
    theirs = Msg.Metadata._from_reply(subject)  # pyright: ignore[reportPrivateUsage]

    assert delivered(subject) == (theirs.sequence.stream, theirs.num_delivered, theirs.timestamp)
    assert delivered(subject)[:2] == (41, 3)


@pytest.mark.parametrize(
    "subject", ["", "_INBOX.x", "$JS.ACK.a.b.1.2.3.4", f"$JS.ACK.{'x.' * 8}1", "$JS.FC.a.b.1.2.3.4.5"]
)
def test_takes_nothing_else(subject: str) -> None:
    with pytest.raises(ValueError):
        delivered(subject)
