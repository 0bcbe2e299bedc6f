"""Every stage of a picture against Pillow, numpy or torchvision's formulas; and files that mean harm."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydantic import ValidationError
from tests.processing.fixtures import encoded, photo

from headway.core.errors import RequestError
from headway.processing.pictures import Crop, Decode, Layout, Normalise, Resize, pixels
from headway.processing.stage import Flow, Kit, Limits, Stage

KIT = Kit(limits=Limits(max_pixels=1_000_000))


def done(stage: Stage, value: Any, kit: Kit = KIT) -> Any:
    return stage.open(kit)(value)


def decoded(data: bytes, mode: Any = "RGB", kit: Kit = KIT) -> np.ndarray:
    return pixels(done(Decode(mode=mode), data, kit))


# Decode


def test_lossless_pictures_come_back_as_they_were() -> None:
    np.testing.assert_array_equal(decoded(encoded(photo())), photo())
    grey = photo()[:, :, 0]
    np.testing.assert_array_equal(decoded(encoded(grey), "GREY"), grey[:, :, None])
    np.testing.assert_array_equal(decoded(encoded(grey)), np.repeat(grey[:, :, None], 3, axis=2))


def test_brightness_is_luma_of_bt_601() -> None:
    luma = photo() @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decoded(encoded(photo()), "GREY")[:, :, 0], luma, atol=1)


def test_a_jpeg_is_what_pillow_reads() -> None:
    data = encoded(photo(), "JPEG", quality=90)
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(decoded(data).astype(int) - photo()).mean() < 10


@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG"):
        data = encoded(photo(24, 40), kind, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decoded(data), np.asarray(upright))
    assert decoded(data).shape == ((40, 24, 3) if orientation >= 5 else (24, 40, 3))


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff" + b"\x01" * 30)
    assert decoded(data).shape == (60, 80, 3)


def test_palettes_transparency_and_one_bit() -> None:
    image = Image.fromarray(photo())
    palette = image.quantize(16)
    np.testing.assert_array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))
    transparent = encoded(palette, transparency=bytes(range(16)))
    np.testing.assert_array_equal(decoded(transparent), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decoded(encoded(palette, transparency=3)), np.asarray(palette.convert("RGB")))
    alpha = image.copy()
    alpha.putalpha(100)
    np.testing.assert_array_equal(decoded(encoded(alpha)), photo())
    bits = image.convert("1")
    np.testing.assert_array_equal(decoded(encoded(bits), "GREY")[:, :, 0] > 0, np.asarray(bits))


def test_of_16_bits_the_upper_8_are_kept() -> None:
    deep = (photo()[:, :, 0].astype(np.uint16) << 8) + 77
    for mode in ("RGB", "GREY"):
        np.testing.assert_array_equal(decoded(encoded(deep), mode)[:, :, 0], photo()[:, :, 0])
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in photo().astype(np.uint16) * 256 + 99)
    header = struct.pack(">IIBBBBB", 80, 60, 16, 2, 0, 0, 0)
    np.testing.assert_array_equal(decoded(png(header, zlib.compress(rows))), photo())


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    data = encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG")
    assert np.abs(decoded(data).astype(int) - photo()).mean() < 10


def test_of_an_animated_png_the_first_picture() -> None:
    frames = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(data), photo(seed=0))


# Files that mean harm


def png(header: bytes, data: bytes = b"", *extra: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def refusal(data: Any, kit: Kit = KIT) -> str:
    with pytest.raises(RequestError) as caught:
        decoded(data, kit=kit)
    return caught.value.message


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    assert refusal(encoded(photo(), kind)) == "it is neither a JPEG nor a PNG file"


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"hello", b"GIF89a", "text", 7])
def test_what_is_no_picture_is_refused(data: Any) -> None:
    assert refusal(data).startswith(("it is neither", "the picture is damaged", "must be the bytes of a file"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str) -> None:
    data = encoded(photo(), kind)
    for end in (len(data) // 2, len(data) * 9 // 10, *range(2, 60, 7)):
        assert refusal(data[:end])


def test_a_bomb_is_refused_by_its_header() -> None:
    huge = png(struct.pack(">IIBBBBB", 1_000_000, 1_000_000, 8, 2, 0, 0, 0), zlib.compress(b"\x00" * 1_000_000))
    assert "too many" in refusal(huge)
    large = png(struct.pack(">IIBBBBB", 1001, 1000, 8, 0, 0, 0, 0), b"no picture at all")
    assert refusal(large) == "1001 x 1000 pixels are too many: at most 1,000,000 are taken"
    lying = bytearray(encoded(photo(), "JPEG"))
    start = lying.index(b"\xff\xc0")
    lying[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    assert "too many" in refusal(bytes(lying))


def test_a_file_of_very_many_parts_is_refused_unread() -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    assert "more than 50,000 parts" in refusal(png(header, zlib.compress(bytes(20)), *[(b"abCd", b"")] * 60_000))
    data = encoded(photo(), "JPEG", progressive=True)
    comments = data[:2] + b"\xff\xfe\x00\x02" * 60_000 + data[2:]
    assert "more than 50,000 parts" in refusal(comments)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert "or 50 scans" in refusal(data[:-2] + last * 60 + data[-2:])
    assert decoded(data[:-2] + last * 5 + data[-2:]).shape == (60, 80, 3)


def test_what_follows_a_jpeg_does_not_count() -> None:
    """A moving picture lies behind the photographs of many telephones."""
    data = encoded(photo(), "JPEG")
    np.testing.assert_array_equal(decoded(data + b"\xff\xda\x00\x02" * 1000), decoded(data))


def test_text_that_unpacks_to_much_is_refused() -> None:
    text = (b"zTXt", b"Comment\x00\x00" + zlib.compress(b"\x00" * 10_000_000))
    assert "damaged" in refusal(png(struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0), zlib.compress(bytes(20)), text))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever bytes are changed, there is a picture or a `RequestError`, and no other error."""
    file = bytearray(encoded(photo(16, 16), data.draw(st.sampled_from(["JPEG", "PNG"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RequestError):
        decoded(bytes(file))


# Resize and crop


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (50, 50), (37, 113)])
@pytest.mark.parametrize("shorter", [20, 37, 90])
def test_the_shorter_side(height: int, width: int, shorter: int) -> None:
    """torchvision's `_compute_resized_output_size`: the longer side is int(size * long / short)."""
    resized = done(Resize(shorter=shorter), Image.fromarray(photo(height, width)))
    longer = int(shorter * max(height, width) / min(height, width))
    assert resized.size == ((shorter, longer) if width <= height else (longer, shorter))


@pytest.mark.parametrize(("filter_", "pillow"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
def test_with_antialias_it_is_pillows_resize(filter_: Any, pillow: Any) -> None:
    image = Image.fromarray(photo(123, 211))
    resized = done(Resize(height=40, width=50, filter=filter_), image)
    np.testing.assert_array_equal(pixels(resized), np.asarray(image.resize((50, 40), pillow)))


def bilinear(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel's centre looked up between four old ones; the edge is repeated."""

    def places(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    top, bottom, down = places(height, picture.shape[0])
    left, right, across = places(width, picture.shape[1])
    down, across = down[:, None, None], across[None, :, None]
    wide = picture.astype(float)
    upper = wide[top][:, left] * (1 - across) + wide[top][:, right] * across
    lower = wide[bottom][:, left] * (1 - across) + wide[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("size", [(20, 30), (200, 90)])
def test_without_antialias_it_is_interpolation_alone(size: tuple[int, int]) -> None:
    resized = done(Resize(height=size[0], width=size[1], antialias=False), Image.fromarray(photo()))
    np.testing.assert_allclose(pixels(resized), bilinear(photo(), *size), atol=1)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = Image.fromarray(photo())
    assert done(Resize(height=60, width=80), image) is image


def test_a_thin_picture_is_not_blown_up() -> None:
    thin = Image.fromarray(photo(1, 5000))
    with pytest.raises(RequestError, match="1280000 x 256 pixels are too many"):
        done(Resize(shorter=256), thin)


@given(st.tuples(*[st.integers(1, 40)] * 4))
@settings(max_examples=100, deadline=None)
def test_crops_are_torchvisions(sizes: tuple[int, int, int, int]) -> None:
    height, width, tall, wide = sizes
    picture = photo(height, width)
    crop = Crop(height=tall, width=wide).open(KIT)
    if tall > height or wide > width:
        with pytest.raises(RequestError, match="are needed"):
            crop(Image.fromarray(picture))
        return
    top, left = int(round((height - tall) / 2.0)), int(round((width - wide) / 2.0))  # noqa: RUF046  (as they have it)
    np.testing.assert_array_equal(pixels(crop(Image.fromarray(picture))), picture[top : top + tall, left : left + wide])


# Normalise and layout

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalise_is_the_formula_to_the_last_bit() -> None:
    found = done(Normalise(mean=MEAN, std=STD), Image.fromarray(photo()))
    expected = (photo().astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_normalise_has_other_forms() -> None:
    grey = Image.fromarray(photo()[:, :, 0])
    np.testing.assert_array_equal(done(Normalise(scale=1), grey)[:, :, 0], photo()[:, :, 0])
    half = done(Normalise(mean=(0.5,), std=(0.5,), datatype="FP16"), Image.fromarray(photo()))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, photo() / 127.5 - 1, atol=1e-3)


def test_layouts() -> None:
    image = Image.fromarray(photo())
    np.testing.assert_array_equal(done(Layout(order="NCHW"), image), photo().transpose(2, 0, 1))
    np.testing.assert_array_equal(done(Layout(order="NHWC"), image), photo())
    made = done(Layout(order="NCHW"), done(Normalise(), image))
    np.testing.assert_array_equal(made, (photo().astype(np.float32) / np.float32(255)).transpose(2, 0, 1))


# What is known before there is a picture

ENCODED = Flow("encoded")
PICTURES = Flow("pictures", "UINT8", (-1, -1, -1, 3))


def flowing(*stages: Stage, given: Flow = ENCODED) -> Flow:
    for stage in stages:
        given = stage.check(given, KIT)
    return given


def test_shapes_are_known_beforehand() -> None:
    assert flowing(Decode()) == PICTURES
    assert flowing(Decode(mode="GREY"), Resize(height=8, width=9)).shape == (-1, 8, 9, 1)
    assert flowing(Decode(), Resize(shorter=256)).shape == (-1, -1, -1, 3)
    assert flowing(Decode(), Resize(height=8, width=4), Resize(shorter=16)).shape == (-1, 32, 16, 3)
    chain = [Decode(), Resize(shorter=256), Crop(height=224, width=200), Normalise(), Layout(order="NCHW")]
    assert flowing(*chain) == Flow("tensor", "FP32", (-1, 3, 224, 200))


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    resize=st.one_of(st.none(), st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    crop=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    mode=st.sampled_from(["RGB", "GREY"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_known_beforehand_holds(size: Any, resize: Any, crop: Any, mode: Any, layout: Any) -> None:
    chain: list[Stage] = [Decode(mode=mode)]
    if resize is not None:
        chain.append(Resize(shorter=resize) if isinstance(resize, int) else Resize(height=resize[0], width=resize[1]))
    if crop is not None:
        chain.append(Crop(height=crop[0], width=crop[1]))
    chain += [Normalise(), Layout(order=layout)]
    try:
        flow = flowing(*chain)
    except ValueError:
        return  # a crop larger than what is resized to: refused before there is any picture
    value: Any = encoded(photo(*size))
    try:
        for stage in chain:
            value = done(stage, value)
    except RequestError:
        assert crop is not None
        assert not isinstance(resize, tuple)  # with a known size nothing can fail any more
        return
    assert value.dtype == np.float32
    assert all(want in (-1, have) for want, have in zip(flow.shape[1:], value.shape, strict=True))


@pytest.mark.parametrize(
    ("stage", "given_", "says"),
    [
        (Decode(), PICTURES, "takes bytes as they were sent"),
        (Resize(shorter=8), ENCODED, "takes decoded pictures, and gets bytes"),
        (Resize(shorter=8), Flow("tensor", "FP32", (-1, 4, 4, 3)), "before normalise"),
        (Crop(height=9, width=8), Flow("pictures", "UINT8", (-1, 8, 8, 3)), "cannot cut 9 x 8 out of 8 x 8"),
        (Crop(height=9, width=8), Flow("pictures", "UINT8", (-1, -1, -1, 3), shorter=8), "shorter side is 8"),
        (Normalise(mean=MEAN), Flow("pictures", "UINT8", (-1, 8, 8, 1)), "3 values of mean for pictures of 1 channel"),
        (Normalise(std=(1, 1)), PICTURES, "2 values of std"),
        (Normalise(scale=1e-6, datatype="FP16"), PICTURES, "do not fit FP16"),
        (Layout(order="NCHW"), ENCODED, "after decode"),
        (Resize(height=60000, width=60000), PICTURES, "more than the 1,000,000"),
        (Crop(height=60000, width=60000), PICTURES, "more than the 1,000,000"),
    ],
)
def test_wrong_chains(stage: Stage, given_: Flow, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stage.check(given_, KIT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resize(),
        lambda: Resize(shorter=8, height=8, width=8),
        lambda: Resize(height=8),
        lambda: Resize(shorter=0),
        lambda: Crop(height=-1, width=3),
        lambda: Normalise(scale=0),
        lambda: Normalise(std=(1, 0)),
        lambda: Normalise(mean=()),
        lambda: Normalise(scale=1e300),
        lambda: Normalise(scale=float("nan")),
        lambda: Decode.model_validate({"mode": "CMYK"}),
    ],
)
def test_wrong_settings(make: Callable[[], Stage]) -> None:
    with pytest.raises(ValidationError):
        make()
