"""Image and mask files as they come: oriented, 8 bit, and in a form that TensorFlow decodes."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import MaskClasses

if TYPE_CHECKING:
    from PIL import Image

IGNORED = 255
_ORIENTATION = 0x0112
_PNG_GREY, _PNG_RGB = 0, 2
_PNG_END = b"IEND\xaeB`\x82"


class ImageError(ValueError):
    """A file that can't be used as an image or as a mask.

    Args:
        kind: ``missing_file``, ``unreadable``, ``truncated``, ``decompression_bomb`` or ``mask_values``.
        path: the file.
        message: what was expected and what came.
    """

    def __init__(self, kind: str, path: str | Path, message: str):
        self.kind, self.path, self.message = kind, str(path), message
        super().__init__(f"{path}: {message}")


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a file with Pillow; whatever goes wrong inside the block becomes an `ImageError` that names it.

    Raises:
        ImageError: when the file is missing, of no known format, cut short, or has more pixels than Pillow's
            limit (`PIL.Image.MAX_IMAGE_PIXELS`), which guards against files made to fill the memory.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels, the limit is {limit}")
            if image.format == "PNG" and _PNG_END not in Path(path).read_bytes():
                # Pillow shows such a file, TensorFlow refuses it.
                raise ImageError("truncated", path, "the file is cut short (a PNG without its end)")
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("decompression_bomb", path, f"too large to be decoded safely: {error}") from error
    except FileNotFoundError as error:
        raise ImageError("missing_file", path, "the file is missing") from error
    except UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        message = "the file is empty" if empty else "not an image of a format that Pillow reads"
        raise ImageError("truncated" if empty else "unreadable", path, message) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, zlib.error) as error:
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        message = "the file is cut short" if cut else "the file can't be decoded"
        raise ImageError("truncated" if cut else "unreadable", path, f"{message} ({error})") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def transcoding_reason(image: Image.Image) -> str | None:
    """Why TensorFlow can't be given the file as it is, or None when it can (8-bit RGB or grey JPEG or PNG).

    Rotation by EXIF is another reason, which `orientation` tells.
    """
    if image.format in ("JPEG", "MPO"):
        return None if image.mode in ("RGB", "L") else f"{image.mode} JPEG"
    if image.format != "PNG":
        return f"{image.format}"
    depth, colour = _png_header(image)
    if depth != 8:
        return f"{depth}-bit PNG"
    if colour not in (_PNG_GREY, _PNG_RGB) or "transparency" in image.info:
        return "palette PNG" if image.mode == "P" else "PNG with transparency"
    return None


def _png_header(image: Image.Image) -> tuple[int, int]:
    """Bit depth and colour type: Pillow's mode does not tell 16-bit from 8-bit RGB."""
    with open(image.filename, "rb") as file:
        header = file.read(26)
    return header[24], header[25]


def image_bytes(path: str | Path) -> bytes:
    """The file as bytes that ``tf.io.decode_image(…, channels=3)`` reads as 8 bit, upright.

    An 8-bit RGB or grey JPEG or PNG without EXIF rotation is returned untouched and is not decoded. Everything
    else that Pillow reads is transcoded to PNG by `read_image`.

    Raises:
        ImageError: (a ValueError) naming the file, when it can't be read.
    """
    with open_image(path) as image:
        untouched = transcoding_reason(image) is None and orientation(image) == 1
    if untouched:
        return Path(path).read_bytes()
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(read_image(path)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image, uint8 (H, W, 3), upright.

    EXIF rotation is applied; of a 16-bit value the high byte is kept; transparency is dropped (not composited),
    as TensorFlow does; of an animation the first frame is read.

    Raises:
        ImageError: (a ValueError) naming the file, when it can't be read.
    """
    with open_image(path) as image:
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an opened image, as `read_image` describes them."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()}, expected 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no declared range; save the image with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_mask(path: str | Path, mask_classes: MaskClasses) -> np.ndarray:
    """Decode a mask to class indices, uint8 (H, W), with 255 where a pixel is ignored; EXIF rotation is applied.

    A file with two classes may hold 0 and 1 or 0 and 255, or be 1-bit; with more classes the value is the
    index. A declared ``ignore`` value comes first: with ``ignore=255``, 255 is never the lesion. The indices of
    a palette file count, not its colours. RGB files are accepted when their channels are equal.

    Raises:
        ImageError: (a ValueError) naming the file, when it can't be read or holds values that aren't declared.
    """
    with open_image(path) as image:
        from PIL import ImageOps

        lossy = image.format in ("JPEG", "MPO")
        values = np.asarray(ImageOps.exif_transpose(image))
        transparent = image.mode in ("LA", "RGBA", "La", "RGBa")
    if values.ndim == 3:
        colours, alpha = (values[..., :-1], values[..., -1]) if transparent else (values, None)
        if alpha is not None and alpha.min() != alpha.max():
            raise ImageError("mask_values", path, "the mask's transparency varies; save it without")
        if (colours != colours[..., :1]).any():
            raise ImageError("mask_values", path, "the mask is in colour; expected class values in one channel")
        values = colours[..., 0]
    return _class_indices(values.astype(np.int64), mask_classes, path, lossy)


def _class_indices(values: np.ndarray, mask_classes: MaskClasses, path: str | Path, lossy: bool) -> np.ndarray:
    classes, ignore = len(mask_classes.names), mask_classes.ignore
    ignored = np.zeros(values.shape, bool) if ignore is None else values == ignore
    found = np.unique(values[~ignored])
    if classes == 2 and set(found) <= {0, 255}:
        indices = values > 0
    elif set(found) <= set(range(classes)):
        indices = values
    else:
        declared = ", ".join(f"{value} {name}" for value, name in enumerate(mask_classes.names))
        declared += " (or 0 and 255)" if classes == 2 else ""
        declared += "" if ignore is None else f", {ignore} ignored"
        shown = ", ".join(map(str, found[:10])) + (f", … ({len(found)} values)" if len(found) > 10 else "")
        hint = "; JPEG changes values: save masks as PNG" if lossy else ""
        raise ImageError("mask_values", path, f"mask values {shown}; declared are {declared}{hint}")
    return np.where(ignored, IGNORED, indices).astype(np.uint8)
