"""Images in `data:` URLs, in all the forms that agents write them."""

import base64

import pytest

from workers.providers.shared.requests.images import InlineImage, is_inline, read_inline, rewritten


@pytest.mark.parametrize(
    ("label", "media_type"),
    [
        ("image/png", "image/png"),
        ("image/jpg", "image/jpeg"),
        ("image/JPG", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("image/Webp ", "image/webp"),
        ("image/svg+xml", "image/svg+xml"),
        ("image/vnd.ms-photo", "image/vnd.ms-photo"),
    ],
)
def test_a_label_becomes_the_registered_media_type(label: str, media_type: str) -> None:
    assert read_inline(f"data:{label};base64,QQ==") == InlineImage(media_type, "QQ==")
    assert rewritten(f"data:{label};base64,QQ==") == f"data:{media_type};base64,QQ=="


@pytest.mark.parametrize(
    "data",
    ["/9j/4AA=", "/9j/4AA", "_9j_4AA=", "%2F9j%2F4AA%3D", "/9j/\r\n4AA=\n", " /9j/ 4AA= "],
    ids=["plain", "without padding", "safe for URLs", "with percent signs", "in lines", "with blanks"],
)
def test_data_becomes_plain_base64(data: str) -> None:
    assert read_inline(f"data:image/jpeg;base64,{data}") == InlineImage("image/jpeg", "/9j/4AA=")
    assert rewritten(f"data:image/jpeg;base64,{data}") == "data:image/jpeg;base64,/9j/4AA="


@pytest.mark.parametrize("parameters", [";charset=utf-8;base64", ";name=a.png;BASE64", ";base64;charset=utf-8"])
def test_parameters_are_no_part_of_the_media_type(parameters: str) -> None:
    assert read_inline(f"data:image/png{parameters},QQ==") == InlineImage("image/png", "QQ==")
    assert rewritten(f"DATA:image/png{parameters},QQ==") == "data:image/png;base64,QQ=="


def test_data_that_is_no_base64_is_encoded() -> None:
    found = read_inline("data:image/svg+xml,%3Csvg%3E")
    assert found
    assert base64.b64decode(found.base64) == b"<svg>"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.png",
        "data:image/png",
        "data:image/png,",
        "data:image/png;base64,",
        "data:image/png;base64,A",
        "data:image/png;base64,/etc/passwd!",
        "data:image/png;base64,\u010dau",
        "data:image/png;base64,\x00\ufffd",
        "data:text/plain;base64,QQ==",
        "data:,",
    ],
)
def test_what_holds_no_image_is_none(url: str) -> None:
    assert read_inline(url) is None
    assert rewritten(url) == url


def test_data_urls_are_known_by_their_scheme() -> None:
    assert is_inline("DATA:image/png;base64,QQ==")
    assert not is_inline("https://example.org/data:image/png")
