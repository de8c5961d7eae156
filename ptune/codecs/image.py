"""The image codec: image files and bytes to a model's input. Torch-free: shared by training, evaluation and serving.

Uses only Pillow and numpy. Its geometry matches the backbone's own processor (transformers' image processors and timm's
evaluation transform), pixel for pixel within 1/255 before normalisation.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ptune.errors import DataError, FormatError
from ptune.formats.whole_write import read_json, write_json

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
Colour = tuple[int, int, int]  # RGB

MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it suspects a decompression bomb
FORMAT = 1
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


class Preprocessing(BaseModel):
    """Turns an RGB image into a model's input: scale, centre crop, normalise.

    The image is scaled to cover `size / crop_share` (fit "shortest", keeping its aspect ratio), exactly to that size
    ("both"), or to fit into it ("longest"); then the centre of `size` is cut out, and missing parts are filled.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    size: tuple[int, int]  # height and width of the model's input
    crop_share: float = 1.0
    fit: Literal["shortest", "both", "longest"] = "shortest"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    corner: Literal["down", "even"] = "down"  # how half a pixel is rounded in the centre crop
    fill: tuple[int, int, int] = (0, 0, 0)
    mean: tuple[float, float, float]  # of pixels from 0 to 1
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 [3, height, width]. Raises: DataError if it is too long and narrow."""
        return self.normalised(self.pixels(image))

    def pixels(self, image: Image.Image) -> Pixels:
        """An RGB image -> [height, width, 3], scaled and cropped but not normalised. Raises: DataError."""
        width, height = self.scaled(image.width, image.height)
        if width * height > MAX_PIXELS:
            raise DataError(f"the image, {image.width} x {image.height} pixels, is too long and narrow")
        return np.asarray(self._middle(rescaled(image, (width, height), self.interpolation)))

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[..., height, width, 3] -> float32 [..., 3, height, width]."""
        std = np.asarray(self.std, np.float64)
        scale, shift = (1 / (255 * std)).astype(np.float32), (np.asarray(self.mean) / std).astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(pixels * scale - shift, -1, -3))

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image after scaling."""
        to_height, to_width = (math.floor(edge / self.crop_share) for edge in self.size)
        if self.fit == "both":
            return to_width, to_height
        if self.fit == "shortest" and to_height == to_width:  # torchvision's rule
            short, long = sorted((width, height))
            scaled = int(to_width * long / short)
            return (to_width, scaled) if width <= height else (scaled, to_width)
        ratios = (height / to_height, width / to_width)
        ratio = min(ratios) if self.fit == "shortest" else max(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _middle(self, image: Image.Image) -> Image.Image:
        from PIL import ImageOps

        height, width = self.size
        missing = max(0, width - image.width), max(0, height - image.height)
        if any(missing):
            left, top = missing[0] // 2, missing[1] // 2
            border = (left, top, missing[0] - left, missing[1] - top)
            image = ImageOps.expand(image, border, fill=self.fill)
        half = round if self.corner == "even" else math.floor
        left, top = half((image.width - width) / 2), half((image.height - height) / 2)
        if (left, top, width, height) == (0, 0, *image.size):
            return image
        cropped: Image.Image = image.crop((left, top, left + width, top + height))
        return cropped


def _filter(name: str) -> Any:
    from PIL import Image

    return Image.Resampling[name.upper()]


def rescaled(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """An image of this width and height."""
    return image if image.size == size else image.resize(size, _filter(interpolation))


def resized(pixels: Pixels, box: tuple[int, int, int, int], interpolation: str) -> Pixels:
    """The part `box` (left, top, right, bottom) of an image, scaled to the size of the whole image."""
    from PIL import Image

    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((width, height), _filter(interpolation), box=box))


def is_opened(value: Any) -> bool:
    """Whether a value is an image that Pillow has opened. Told by its methods: Pillow is not imported for it."""
    return hasattr(value, "getbands")


def open_image(
    source: bytes | str | Path | Image.Image, *, max_pixels: int = MAX_PIXELS, backdrop: Colour | None = None
) -> Image.Image:
    """Decodes an image as RGB, the right way up, without transparency. Takes the first frame of an animation.

    source: a file's bytes or path, or what Pillow has opened. backdrop: what is seen through transparent pixels; None: the
    colours that they hold themselves. Raises: DataError that says in one sentence why it cannot be used, without the file's
    name.
    """
    if isinstance(source, str | Path):
        source = _bytes_of(Path(source))
    if source == b"":
        raise DataError("the image file is empty (0 bytes)")
    return _decoded(source, max_pixels, backdrop)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no image {path}") from None
    except OSError as error:
        raise DataError(f"the image cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL character, or half of a surrogate pair
        raise DataError(f"{path.name[:60]!r} can be no file's name") from None


def _decoded(source: bytes | Image.Image, max_pixels: int, backdrop: Colour | None) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns about large images, which are refused here, and odd metadata
        try:
            image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
            _check_size(image.width, image.height, max_pixels)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return rgb(upright if backdrop is None else _before(backdrop, upright))
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError("not an image of a format that Pillow can read") from None
        except Image.DecompressionBombError:
            raise DataError(f"the image has far more than the {max_pixels:,} pixels allowed") from None
        except Exception as error:  # a damaged file can raise any of the decoders' own exceptions
            raise DataError(f"the image is damaged or truncated: {error}") from None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises: DataError."""
    if width * height > max_pixels:
        raise DataError(
            f"the image has {width} x {height} pixels, more than the {max_pixels:,} allowed: make it smaller"
        )
    if width * height <= 1:
        raise DataError(f"the image is {width} x {height} pixel: there is nothing to be seen in it")


def rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as 8-bit RGB. Raises: DataError for 32-bit pixels, whose range is unknown."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BITS:  # Pillow's own conversion would clip instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise DataError(f"images of mode {image.mode} are not supported: save it as 8-bit RGB")
    return image.convert("RGB")


def _before(backdrop: Colour, image: Image.Image) -> Image.Image:
    """A decoded image in front of a colour; one without transparent pixels as it is."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, (*backdrop, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA"))


def save_codec(preprocessing: Preprocessing, folder: Path) -> None:
    """Writes the codec.json of an image model's run."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "kind": "image", "preprocessing": preprocessing.model_dump(mode="json")}
    write_json(folder / "codec.json", record)


def open_codec(folder: Path) -> Preprocessing:
    """Reads a codec written by `save_codec`. Raises: FormatError."""
    record = read_json(folder / "codec.json")
    if record.get("kind") != "image" or record.get("format") != FORMAT:
        raise FormatError(f"{folder} is not a codec of images that this ptune reads")
    return Preprocessing.model_validate(record["preprocessing"])
