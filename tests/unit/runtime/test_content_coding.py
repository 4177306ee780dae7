"""Packed bodies: whatever they are packed in, in bounded pieces, and packed once."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from runtime import content_coding
from runtime.content_coding import UndecodableBody, unpacked, window_bits
from runtime.fair_queue import FairQueue, Flow

TEXT = b"data: one\n\n" * 50
BARE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
MIB = 1024**2


async def pieces_of(body: bytes, encoding: str, size: int) -> list[bytes]:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    bits = window_bits(encoding)
    assert bits is not None
    return [piece async for piece in unpacked(parts(), bits, Flow(FairQueue(), "tenant"))]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (zlib.compress(TEXT), "deflate"),
        (BARE.compress(TEXT) + BARE.flush(), "deflate"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), " GZIP "),
        (gzip.compress(TEXT), "gzip,utf-8"),
        (gzip.compress(TEXT), "identity, x-gzip"),
        (gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]), "gzip"),
        (gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]), "gzip"),
        (gzip.compress(TEXT) + b"\0" * 20, "gzip"),
        (zlib.compress(TEXT) + b"\0" * 20, "deflate"),
    ],
    ids=[
        "deflate",
        "deflate without a header",
        "gzip",
        "gzip in capitals",
        "gzip and a charset",
        "gzip by its old name",
        "two members",
        "an empty member",
        "padding",
        "padding of a deflate",
    ],
)
async def test_a_body_is_unpacked_whatever_it_is_packed_in(body: bytes, encoding: str, size: int) -> None:
    assert b"".join(await pieces_of(body, encoding, size)) == TEXT


@pytest.mark.parametrize(("pack", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
async def test_a_body_is_unpacked_in_bounded_pieces(pack: Callable[[bytes], bytes], encoding: str) -> None:
    pieces = await pieces_of(pack(bytes(MIB)), encoding, 10_000)
    assert sum(map(len, pieces)) == MIB
    assert max(map(len, pieces)) == content_coding.UNPACKED_BYTES


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(TEXT)[:12] + b"x" * 100])
async def test_what_cannot_be_unpacked_breaks_the_reply(body: bytes) -> None:
    with pytest.raises(UndecodableBody):
        await pieces_of(body, "gzip", 10_000)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,deflate", "br, gzip", "deflate , deflate", "gzip, utf-8, br"])
def test_several_codings_are_refused(encoding: str) -> None:
    with pytest.raises(UndecodableBody):
        window_bits(encoding)


@pytest.mark.parametrize("encoding", ["", "identity", "utf-8", "none", "br", "zstd", "aws-chunked, utf-8", ","])
def test_a_coding_that_was_not_asked_for_is_left_alone(encoding: str) -> None:
    assert window_bits(encoding) is None
