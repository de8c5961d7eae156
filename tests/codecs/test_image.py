"""The torch-free image codec against transformers' and timm's own processing, and against files that are no images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from support import tiny_images
from timm.data.transforms_factory import create_transform

from ptune.backbone.image_processor import of_processor, of_timm
from ptune.codecs.image import Preprocessing, is_opened, open_codec, open_image, save_codec
from ptune.codecs.image_parts import image_of_part
from ptune.errors import BackboneError, DataError

SIZES = [(28, 28), (500, 333), (97, 260), (640, 480), (33, 31), (224, 224), (2, 3)]
PROCESSORS: dict[str, Any] = {
    "vit": transformers.ViTImageProcessor(),
    "vit with a crop": transformers.ViTImageProcessor(
        size={"height": 256, "width": 256}, do_center_crop=True, crop_size={"height": 224, "width": 224}
    ),
    "convnext below 384": transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875),
    "convnext of odd share": transformers.ConvNextImageProcessor(size={"shortest_edge": 230}, crop_pct=0.9),
    "convnext from 384": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "efficientnet": transformers.EfficientNetImageProcessor(size={"height": 64, "width": 64}),
    "efficientnet with an offset": transformers.EfficientNetImageProcessor(
        size={"height": 64, "width": 64}, rescale_factor=1 / 127.5, rescale_offset=True
    ),
    "clip": transformers.CLIPImageProcessor(),
    "deit": transformers.DeiTImageProcessor(),
}
TIMM: dict[str, dict[str, Any]] = {
    "center": {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bicubic"},
    "odd share": {"crop_mode": "center", "crop_pct": 0.9, "interpolation": "bilinear"},
    "squash": {"crop_mode": "squash", "crop_pct": 0.95, "interpolation": "bicubic"},
    "border": {"crop_mode": "border", "crop_pct": 0.9, "interpolation": "bilinear"},
    "not square": {
        "crop_mode": "center",
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "input_size": (3, 96, 128),
    },
}
HALF = {"input_size": (3, 112, 112), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


def test_only_what_pillow_has_opened_is_an_image() -> None:
    assert is_opened(Image.new("RGB", (2, 2)))
    assert not any(map(is_opened, (b"", "a.png", Path("a.png"), np.zeros((2, 2, 3), np.uint8), None)))


def off_by(ours: Any, theirs: Any, std: Any) -> float:
    """The largest difference of pixels from 0 to 1."""
    return float(np.abs((np.asarray(ours) - np.asarray(theirs)) * np.asarray(std).reshape(3, 1, 1)).max())


def with_pillow(processor: Any) -> Any:
    """The same processor in its form that computes with Pillow."""
    kind = getattr(transformers, f"{type(processor).__name__}Pil")
    fields = processor.to_dict()
    return kind(**{name: value for name, value in fields.items() if name != "image_processor_type"})


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers(name: str, size: tuple[int, int]) -> None:
    """transformers has each processor twice. torchvision's bicubic filter rounds its weights to 16 bits, so that of
    enlarged images a few values in a million are off by 2 from Pillow's; everything else is within 1."""
    image, processor = tiny_images.picture(*size), PROCESSORS[name]
    ours = of_processor(processor)
    found = ours(image)
    pillow, torchvision = (
        one(image, return_tensors="np")["pixel_values"][0] for one in (with_pillow(processor), processor)
    )
    assert found.dtype == np.float32
    assert found.shape == torchvision.shape
    assert off_by(found, pillow, ours.std) <= 1e-6
    off = np.abs(found - torchvision) * np.asarray(ours.std).reshape(3, 1, 1) * 255
    assert off.max() <= 2.001
    assert (off > 1.001).sum() <= max(2, 2e-5 * off.size)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_timm(name: str, size: tuple[int, int]) -> None:
    config = {**HALF, **TIMM[name]}
    image = tiny_images.picture(*size)
    theirs = create_transform(**config, is_training=False)(image).numpy()
    assert off_by(of_timm(config)(image), theirs, config["std"]) <= 1e-6


def test_another_size_is_as_if_the_processor_had_been_made_for_it() -> None:
    image = tiny_images.picture(200, 130)
    asked = of_processor(PROCESSORS["convnext from 384"], 96)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 96})
    theirs = with_pillow(processor)(image, return_tensors="np")["pixel_values"][0]
    assert off_by(asked(image), theirs, asked.std) <= 1e-6
    config = {**HALF, **TIMM["center"]}
    theirs = create_transform(**{**config, "input_size": (3, 96, 96)}, is_training=False)(image).numpy()
    assert off_by(of_timm(config, 96)(image), theirs, config["std"]) <= 1e-6


def test_a_processor_that_is_not_reproduced_is_refused() -> None:
    flips = transformers.MobileViTImageProcessor()
    with pytest.raises(BackboneError, match="MobileViTImageProcessor cannot be reproduced: it wants do_flip"):
        of_processor(flips)
    longest = transformers.ViTImageProcessor(size={"longest_edge": 32})
    with pytest.raises(BackboneError, match="resizes by longest_edge"):
        of_processor(longest)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "PA", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    kind = {"CMYK": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    image = tiny_images.picture(31, 20)
    image = image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)
    raw = saved(image, kind) if mode != "PA" else saved(image.convert("RGBA"), "PNG")
    opened = open_image(raw)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "PA", "RGBA"])
def test_transparent_pixels_in_a_chat_are_white_as_the_models_own_processor_shows_them(mode: str) -> None:
    image = tiny_images.picture(28, 28).convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)))
    options: dict[str, Any] = {"transparency": 7} if mode == "P" else {}
    raw = saved(
        image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode),
        "TIFF" if mode == "PA" else "PNG",
        **options,
    )
    processor = transformers.CLIPImageProcessorPil()
    theirs = processor(Image.open(io.BytesIO(raw)), return_tensors="np")["pixel_values"][0]
    ours = of_processor(processor)
    assert off_by(ours(image_of_part({"type": "image", "bytes": raw})), theirs, ours.std) <= 1e-6


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("~draft.png", "there is no image"),  # no user is called so
        ("a\0b.png", r"'a\\x00b.png' can be no file's name"),
        ("\ud800.png", r"'\\ud800.png' can be no file's name"),
        ("data:image/png;base64,é", "is not valid base64"),
    ],
)
def test_what_can_be_no_image_is_told_in_a_sentence(named: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        image_of_part({"type": "image", "path": named}, tmp_path)


def test_a_cmyk_jpeg_looks_as_it_did() -> None:
    image = tiny_images.picture(64, 64)
    opened = open_image(saved(image.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(image)).mean() < 10


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    opened = np.asarray(open_image(saved(Image.fromarray(values), "PNG")))
    assert np.array_equal(opened, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1))


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(turn: int) -> None:
    image = tiny_images.picture(24, 16)
    exif = Image.Exif()
    exif[0x0112] = turn
    opened = open_image(saved(image, "PNG", exif=exif))
    assert opened.size == ((24, 16) if turn < 5 else (16, 24))
    if turn == 6:
        assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(image), -1))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [tiny_images.picture(20, 20, seed).convert("P") for seed in (1, 2)]
    raw = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(np.asarray(open_image(raw)), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


def bomb() -> bytes:
    """A PNG of a few bytes that says that it has 60,000 x 60,000 pixels."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(999)),
    }
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


WHOLE = saved(tiny_images.picture(64, 64), "PNG")
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "text": (b"hello, world", "not an image of a format that Pillow can read"),
    "cut in two": (WHOLE[: len(WHOLE) // 2], "damaged or truncated"),
    "cut jpeg": (saved(tiny_images.picture(64, 64), "JPEG")[:700], "damaged or truncated"),
    "header only": (WHOLE[:30], "damaged or truncated|not an image"),
    "a bit flipped": (WHOLE[:60] + bytes([WHOLE[60] ^ 255]) + WHOLE[61:], "damaged or truncated"),
    "bomb": (bomb(), "pixels"),
    "one pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixel: there is nothing to be seen"),
    "floats": (saved(Image.new("F", (8, 8)), "TIFF"), "mode F"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_in_one_sentence(name: str) -> None:
    raw, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        open_image(raw)
    assert "\n" not in str(caught.value)


def test_limits_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64 x 64 pixels, more than the 1,000 allowed"):
        open_image(WHOLE, max_pixels=1000)
    with pytest.raises(DataError, match="there is no image"):
        open_image(tmp_path / "gone.png")
    narrow = Image.new("RGB", (1, 60000))
    with pytest.raises(DataError, match="1 x 60000 pixels, is too long and narrow"):
        of_processor(PROCESSORS["clip"])(narrow)


def test_a_codec_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    ours = of_processor(PROCESSORS["efficientnet with an offset"])
    save_codec(ours, tmp_path / "codec")
    assert open_codec(tmp_path / "codec") == ours
    assert Preprocessing.model_validate_json(ours.model_dump_json()) == ours
