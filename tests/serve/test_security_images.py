"""Images made to break a server: small files that unpack to much, and files that are no pictures."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.fake_encoder_model import IMAGES, FakeEncoderModel
from support.served_encoder import part

from ptune_serve.app import create_encoder_app


@pytest.fixture(scope="module")
def encoder() -> TestClient:
    return TestClient(create_encoder_app(FakeEncoderModel(IMAGES)), raise_server_exceptions=False)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 10_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), (index, 0, 0)) for index in range(200)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def with_text_bomb() -> bytes:
    """A compressed comment that unpacks to 64 MB."""
    from PIL.PngImagePlugin import PngInfo

    told, out = PngInfo(), io.BytesIO()
    told.add_text("comment", "x" * 64_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=told)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (bomb(100_000, 100_000), 400),
        (bomb(2**31 - 1, 2**31 - 1), 400),
        (bomb(0, 0), 400),
        (bomb(5000, 5001), 400),
        (with_text_bomb(), 400),
        (animation(), 200),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 1000, 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file", 400),
    ],
    ids=["10^10 pixels", "2^62 pixels", "none", "just over", "comment", "animation", "zeros", "svg", "ps"],
)  # fmt: skip
def test_images_that_unpack_to_more(encoder: TestClient, content: bytes, status: int) -> None:
    name = next(iter(IMAGES))
    response = encoder.post(
        f"/v1/classify?model={name}", content=content, headers={"content-type": "image/png"}
    )
    assert response.status_code == status, response.text
    told = encoder.post("/v1/classify", json={"model": name, "input": [part(content)]})
    assert told.status_code == status, told.text
