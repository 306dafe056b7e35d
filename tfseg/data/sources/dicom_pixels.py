"""The picture of a DICOM file as 8-bit pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def picture(dataset: Dataset) -> np.ndarray:
    """The pixels of a single-frame DICOM image as they are to be shown, uint8 (H, W) or (H, W, 3).

    Grey values are windowed where the file has a window (the linear function of DICOM PS3.3 C.11.2.1.2, after slope
    and intercept). Otherwise of more than eight bits the highest eight are kept. ``MONOCHROME1`` is inverted,
    palettes are looked up, YCbCr becomes RGB without a colour profile.

    Raises:
        ValueError: no picture, several frames, a compression that nothing installed decodes, or pixel data that
            doesn't fit its own description. The message holds nothing of the patient.
    """
    from pydicom.pixels import apply_color_lut, pixel_array

    _check(dataset)
    photometric = dataset.PhotometricInterpretation
    try:
        values = pixel_array(dataset)
        if photometric == PALETTE:
            values = apply_color_lut(values, dataset)[..., :3]
    except Exception as error:
        # Decoders raise whatever they like, and what they say may quote the file.
        raise ValueError(f"the pixel data can't be decoded ({type(error).__name__})") from None
    if photometric == PALETTE:
        return _eight_bits(values, 8 * values.dtype.itemsize)
    if photometric in COLOUR:
        return _eight_bits(values, dataset.BitsStored)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth"):
        grey = _windowed(values, dataset)
    else:
        offset = 2 ** (dataset.BitsStored - 1) if dataset.PixelRepresentation else 0
        grey = _eight_bits(values.astype(np.int64) + offset, dataset.BitsStored)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _check(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    if "PixelData" not in dataset:
        raise ValueError("there is no picture in the file (no pixel data)")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"{frames} frames, expected a single one: export the frames as files of their own")
    known = (*GREY, PALETTE, *COLOUR)
    if dataset.get("PhotometricInterpretation") not in known:
        message = f"photometric interpretation {dataset.get('PhotometricInterpretation')!r}; known: {', '.join(known)}"
        raise ValueError(message)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("the file doesn't say how its picture is written (no transfer syntax)")
    if not syntax.is_compressed:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        packages = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        raise ValueError(f"compressed as {syntax.name}, which nothing installed decodes: {packages}")


def _eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The highest eight of `bits` bits; fewer are stretched to 0 to 255."""
    if bits < 8:
        return (values.astype(np.int64) * 255 // (2**bits - 1)).astype(np.uint8)
    return (values >> (bits - 8)).astype(np.uint8)


def _windowed(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    centre, width = (_first(dataset[name].value) for name in ("WindowCenter", "WindowWidth"))
    shown = values * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    share = (shown - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _first(value) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
