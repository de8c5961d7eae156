"""POST /v1/classify over HTTP: images in, labels out; what is no image is refused by name."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from support.fake_encoder_model import IMAGES
from support.served_encoder import Encoder, as_new, encoder, part, png, refusal


@pytest.fixture(scope="module")
def _images():
    with encoder(IMAGES, max_images_bytes=12_000_000) as served:
        yield served


@pytest.fixture
def images(_images: Encoder) -> Encoder:
    return as_new(_images)


def noise() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_images_as_data_uris(images):
    body = images.classify([part(png()), part(png((0, 0, 255), kind="JPEG"), "image/jpeg")], "colours").json()
    assert [item["label"] for item in body["data"]] == ["red", "blue"]
    assert body["usage"]["prompt_tokens"] == 0
    assert images.classify(part(png()), "brightness").json()["data"][0]["label"] == "dark"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_an_image_as_the_body(images, kind):
    response = images.http.post(
        "/v1/classify?model=colours",
        content=png((0, 200, 0), kind=kind),
        headers={"content-type": f"image/{kind.lower()}"},
    )
    assert response.json()["data"][0]["label"] == "green"


def test_an_image_as_the_body_needs_a_model(images):
    for url, status in (("/v1/classify", 400), ("/v1/classify?model=sentiment", 404)):
        response = images.http.post(url, content=png(), headers={"content-type": "image/png"})
        assert refusal(response, status)["param"] == "model"


def test_forms_are_refused_since_any_web_page_could_send_them(images):
    response = images.http.post("/v1/classify?model=colours", files={"file": png()})
    assert "or an image as the body with ?model=" in refusal(response, 415)["message"]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/svg+xml", ""):
        refusal(
            images.http.post("/v1/classify?model=colours", content=png(), headers={"content-type": kind}), 415
        )


TINY = png()
NOISE = noise()
BOMB = png(size=(6000, 5000))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (NOISE[: len(NOISE) // 2], "damaged or truncated"),
        (png(size=(1, 1)), "nothing to be seen"),
        (BOMB, "more than the 25,000,000 allowed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
    ids=["empty", "text", "truncated", "1x1", "bomb", "svg"],
)
def test_images_that_are_none(images, content, told):
    error = refusal(images.classify([part(png()), part(content)], "colours"))
    assert error["param"] == "input[1]"
    assert told in error["message"]
    response = images.http.post(
        "/v1/classify?model=colours", content=content, headers={"content-type": "image/png"}
    )
    assert told in refusal(response)["message"]
    images.classify(part(TINY), "colours").raise_for_status()


def test_an_image_of_another_mode_is_read(images):
    out = io.BytesIO()
    Image.new("CMYK", (8, 8), (255, 255, 0, 0)).save(out, "JPEG")
    assert images.classify(part(out.getvalue(), "image/jpeg"), "colours").json()["data"][0]["label"] == "blue"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "/etc/passwd",
        "",
        "data:,x",
    ],
)
def test_nothing_is_fetched(images, url):
    error = refusal(images.classify({"type": "image_url", "image_url": {"url": url}}, "colours"))
    assert error["code"] == "unsupported_parameter"
    assert "data:image/png;base64" in error["message"]
    assert "fetches nothing" in error["message"]


def test_too_many_images(images):
    assert "32" in refusal(images.classify([part(TINY)] * 33, "colours"))["message"]


def test_an_image_over_its_limit_of_bytes(images):
    large = TINY + b"\0" * (8 * 2**20)
    assert "8388608" in refusal(images.classify(part(large), "colours"))["message"]
    response = images.http.post(
        "/v1/classify?model=colours", content=large, headers={"content-type": "image/png"}
    )
    assert "8388608" in refusal(response)["message"]


def test_a_body_over_the_limit(images):
    assert "12000000" in refusal(images.classify("x" * 13_000_000, "colours"), 413)["message"]


def test_texts_where_images_are_taken(images):
    assert "takes images" in refusal(images.classify("good", "colours"))["message"]
