"""Requests whose end two readers could see at different places."""

import pytest

from admin_api.http.framing import problem

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 2\r\n\r\nab",
        HEAD + b"content-length:2\t\r\n\r\n\n\r \n",
        HEAD + CHUNKED + b"\r\n2;name=value\r\nab\r\n0\r\n\r\n",
        HEAD + b"\r\n",
        HEAD[:-1],
        b"\r\n" + HEAD + b"\r\n",
        b"GET",
        b"",
    ],
)
def test_what_every_reader_reads_alike_is_taken(request_: bytes) -> None:
    assert problem(request_) is None


LENGTHS = [
    CHUNKED + b"Content-Length: 4\r\n",
    b"Content-Length: 4\r\n" + CHUNKED,
    b"Content-Length: 2\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\ncontent-LENGTH: 3\r\n",
    b"Content-Length: 2, 2\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: 0x2\r\n",
    b"Content-Length: 1_0\r\n",
    b"Content-Length: \r\n",
    CHUNKED + CHUNKED,
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
]
LINES = [
    b"A: b\nC: d\r\n",
    b"A: b\rC: d\r\n",
    b"A: b\r\n c\r\n",
    b"Transfer-Encoding:\r\n\tchunked\r\n",
    b"A: b\n",
]


@pytest.mark.parametrize("headers", [*LENGTHS, *LINES, b"a: b\r\n" * 300, b"A: " + b"b" * 70_000 + b"\r\n"])
def test_what_can_be_read_in_two_ways_is_refused(headers: bytes) -> None:
    assert problem(HEAD + headers + b"\r\n") is not None
    assert problem(b"\r\n" + HEAD + headers + b"\r\nab") is not None
