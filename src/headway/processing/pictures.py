"""Pictures: from an encoded file to the tensor that a model takes.

Only JPEG and PNG are read, and their size is taken from the header and bounded before a pixel is decoded. Sizes and
places are computed as torchvision computes them, so that a model sees what it was trained on.
"""

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from headway.core.errors import RequestError
from headway.core.plugins import missing
from headway.core.tensors import DYNAMIC, Array
from headway.processing.picture_files import require_few_parts
from headway.processing.stage import Flow, Kit, Stage

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG")
_CHANNELS = {"RGB": 3, "GREY": 1}
# EXIF 2.32, tag 0x0112 -> `PIL.Image.Transpose`
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_MOST = 1 << 16  # pixels of a side that a declaration may ask for
_MOST_FP16 = 65504
_Number = Annotated[float, Field(ge=-1e9, le=1e9)]
_Positive = Annotated[float, Field(ge=1e-9, le=1e9)]


class Decode(Stage):
    """Read a JPEG or PNG file, upright as its EXIF orientation says. Of an animated PNG, the first picture.

    Transparency is dropped, and of 16 bits the upper 8 are kept.
    """

    name: ClassVar[str] = "decode"
    package: ClassVar[str] = "pillow"
    extra: ClassVar[str] = "images"
    mode: Literal["RGB", "GREY"] = Field("RGB", description="Colours, or brightness alone (ITU-R 601-2 luma).")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Pictures of any size."""
        given.require("encoded", "put it first")
        return Flow("pictures", "UINT8", (*given.shape, DYNAMIC, DYNAMIC, _CHANNELS[self.mode]))

    def open(self, kit: Kit) -> "Callable[[bytes], Image]":
        """One file to one picture. Raises `RequestError` where it is no such file, damaged, or too large."""
        try:
            from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError  # noqa: F401  (readers)
        except ModuleNotFoundError as error:
            raise missing("Pillow", needed_by="decode", extra=self.extra) from error
        # A stranger's file chooses the text of Pillow's warnings, and Python would print and keep every one of them.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        mode = "RGB" if self.mode == "RGB" else "L"

        def decode(data: bytes) -> Image.Image:
            require_few_parts(data)
            try:
                with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                    _bound(picture.width, picture.height, kit.limits.max_pixels)
                    picture.load()
                    return _eight_bits(_upright(picture)).convert(mode)
            except RequestError:
                raise
            except UnidentifiedImageError:
                raise RequestError("the picture is damaged: its header cannot be read") from None
            except Image.DecompressionBombError:
                raise RequestError("the picture has too many pixels") from None
            except Exception as error:  # noqa: BLE001  (the readers raise errors of a dozen kinds on damaged files)
                reason = " ".join(str(error).split())[:100]
                raise RequestError(f"the picture is damaged: {reason}") from None

        return decode


class Resize(Stage):
    """Scale a picture, to a size of its shorter side or to an exact size."""

    name: ClassVar[str] = "resize"
    shorter: int | None = Field(
        None, ge=1, le=_MOST, description="Pixels of the shorter side; the longer one follows, rounded down."
    )
    height: int | None = Field(None, ge=1, le=_MOST, description="Pixels, with `width`; the proportions may change.")
    width: int | None = Field(None, ge=1, le=_MOST, description="Pixels, with `height`.")
    filter: Literal["bilinear", "bicubic"] = Field("bilinear", description="How pixels are interpolated.")
    antialias: bool = Field(
        True, description="Average over all pixels that fall into one, when scaling down, as Pillow does."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.shorter is None) == (self.height is None) or (self.height is None) != (self.width is None):
            raise ValueError("give either `shorter`, or `height` and `width`")
        return self

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Pictures with one or both sides known."""
        given.require("pictures", "put it after decode, and before normalise and layout")
        rows, height, width, channels = given.shape
        if self.shorter is not None and DYNAMIC in (height, width):
            return Flow("pictures", given.datatype, (rows, DYNAMIC, DYNAMIC, channels), shorter=self.shorter)
        height, width = self._size(height, width)
        _check_area(height, width, kit)
        return Flow("pictures", given.datatype, (rows, height, width, channels), shorter=min(height, width))

    def open(self, kit: Kit) -> "Callable[[Image], Image]":
        """One picture to another. Raises `RequestError` where the result would be too large."""
        from PIL import Image

        resample = Image.Resampling.BILINEAR if self.filter == "bilinear" else Image.Resampling.BICUBIC

        def resize(picture: Image.Image) -> Image.Image:
            height, width = self._size(picture.height, picture.width)
            _bound(width, height, kit.limits.max_pixels)
            if (width, height) == picture.size:
                return picture
            if self.antialias:
                return picture.resize((width, height), resample)
            across, down = picture.width / width, picture.height / height  # each new pixel's centre is looked up
            return picture.transform(
                (width, height), Image.Transform.AFFINE, (across, 0, 0, 0, down, 0), resample=resample
            )

        return resize

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.height is not None and self.width is not None:
            return self.height, self.width
        assert self.shorter is not None  # noqa: S101  (the validator has seen to it)
        if width <= height:
            return self.shorter * height // width, self.shorter
        return self.shorter, self.shorter * width // height


class Crop(Stage):
    """Cut out the middle of a picture."""

    name: ClassVar[str] = "crop"
    height: int = Field(ge=1, le=_MOST, description="Pixels.")
    width: int = Field(ge=1, le=_MOST, description="Pixels.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """Pictures of one size."""
        given.require("pictures", "put it after decode, and before normalise and layout")
        rows, height, width, channels = given.shape
        _check_area(self.height, self.width, kit)
        fixed = DYNAMIC not in (height, width)
        if fixed and (self.height > height or self.width > width):
            raise ValueError(f"cannot cut {self.height} x {self.width} out of {height} x {width} pixels")
        if not fixed and 1 < given.shorter < max(self.height, self.width):
            raise ValueError(f"cannot cut {self.height} x {self.width} where the shorter side is {given.shorter}")
        size = (self.height, self.width)
        return Flow("pictures", given.datatype, (rows, *size, channels), shorter=min(size))

    def open(self, kit: Kit) -> "Callable[[Image], Image]":
        """One picture to another. Raises `RequestError` where it is smaller than what is to be cut out."""

        def crop(picture: "Image") -> "Image":
            if self.height > picture.height or self.width > picture.width:
                raise RequestError(
                    f"the picture has {picture.height} x {picture.width} pixels (height x width),"
                    f" and at least {self.height} x {self.width} are needed"
                )
            left, top = round((picture.width - self.width) / 2), round((picture.height - self.height) / 2)
            return picture.crop((left, top, left + self.width, top + self.height))

        return crop


class Normalise(Stage):
    """Pixels to `(pixel / scale - mean) / std`."""

    name: ClassVar[str] = "normalise"
    scale: _Positive = Field(255, description="What pixels are divided by first; their largest value is 255.")
    mean: tuple[_Number, ...] = Field((0.0,), min_length=1, max_length=3, description="Of each channel, or of all.")
    std: tuple[_Positive, ...] = Field((1.0,), min_length=1, max_length=3, description="Of each channel, or of all.")
    datatype: Literal["FP32", "FP16"] = Field("FP32", description="Of the result; it is computed in FP32.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """A tensor of the same shape."""
        given.require("pictures", "put it after decode, resize and crop, and before layout")
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, given.shape[-1]):
                raise ValueError(f"{len(values)} values of {what} for pictures of {given.shape[-1]} channel(s)")
        largest = (255 / self.scale + max(map(abs, self.mean))) / min(self.std)
        if self.datatype == "FP16" and largest > _MOST_FP16:
            raise ValueError(f"values of up to {largest:.3g} do not fit FP16")
        return Flow("tensor", self.datatype, given.shape)

    def open(self, kit: Kit) -> "Callable[[Image], Array]":
        """One picture to [height, width, channels], in the order of operations that torchvision has."""
        scale = np.float32(self.scale)
        mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        dtype = np.dtype("f4" if self.datatype == "FP32" else "f2")

        def normalise(picture: "Image") -> Array:
            # Channel by channel in memory: numpy is slow along an axis of 3, and most models take NCHW anyway.
            planes = np.ascontiguousarray(pixels(picture).transpose(2, 0, 1)).astype(np.float32)
            planes /= scale
            planes -= mean
            planes /= std
            return planes.astype(dtype, copy=False).transpose(1, 2, 0)

        return normalise

    @property
    def step(self) -> float:
        """What one step of an 8-bit pixel is in the result, at most."""
        return 1 / (self.scale * min(self.std))


class Layout(Stage):
    """The order of dimensions; without this stage it is NHWC."""

    name: ClassVar[str] = "layout"
    order: Literal["NCHW", "NHWC"] = Field(description="Rows, channels, height, width, as the model takes them.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """A tensor with its dimensions in that order."""
        if given.kind == "encoded" or len(given.shape) != 4:
            raise ValueError("takes pictures: put it after decode")
        rows, height, width, channels = given.shape
        shape = (rows, channels, height, width) if self.order == "NCHW" else given.shape
        return Flow("tensor", given.datatype, shape)

    def open(self, kit: Kit) -> "Callable[[Image | Array], Array]":
        """One picture, or [height, width, channels], to the same with its dimensions in order."""
        if self.order == "NHWC":
            return pixels
        return lambda picture: pixels(picture).transpose(2, 0, 1)


def pixels(picture: "Image | Array") -> Array:
    """[height, width, channels] of a picture; a tensor stays as it is."""
    if isinstance(picture, np.ndarray):
        return picture
    array: Array = np.asarray(picture)
    return array if array.ndim == 3 else array[:, :, None]


def _upright(picture: "Image") -> "Image":
    """The picture turned as its EXIF orientation says; EXIF that cannot be read turns nothing."""
    from PIL import ExifTags, Image

    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (its reader raises errors of many kinds)
        return picture
    return picture if turn is None else picture.transpose(Image.Transpose(turn))


def _eight_bits(picture: "Image") -> "Image":
    """Pillow reads colours of 16 bits as 8, and for brightness leaves that to us: `convert` would clip at 255."""
    if not picture.mode.startswith("I"):
        return picture
    from PIL import Image

    return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))


def _bound(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise RequestError(f"{width} x {height} pixels are too many: at most {most:,} are taken")


def _check_area(height: int, width: int, kit: Kit) -> None:
    if height * width > kit.limits.max_pixels:
        raise ValueError(f"{height} x {width} pixels are more than the {kit.limits.max_pixels:,} that are allowed")
