"""Every image a user may throw at us, good and bad."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from dwpose_core.images import as_images, atomic_write, read_image, write_image


def gradient(height=12, width=20):
    ys, xs = np.mgrid[:height, :width]
    return np.stack((xs * 12, ys * 20, np.full_like(xs, 40)), axis=-1).astype(np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("grey.png", "L", None),
        ("palette.png", "P", None),
        ("cmyk.jpg", "CMYK", None),
        ("rgb.webp", "RGB", None),
        ("bits.png", "1", None),
    ],
)
def test_modes_become_rgb(tmp_path, name, mode, expected):
    source = Image.fromarray(gradient()).convert(mode)
    image = read_image(save(tmp_path / name, source))
    assert image.shape == (12, 20, 3)
    assert image.dtype == np.uint8
    # JPEG and WebP lose a little; colour must survive whatever the mode can hold.
    reference = np.asarray(source.convert("RGB")).astype(int)
    assert np.abs(image.astype(int) - reference).mean() < 12


def test_sixteen_bit_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 20, dtype=np.uint16)[None].repeat(3, axis=0)
    image = read_image(save(tmp_path / "deep.png", Image.fromarray(values)))
    np.testing.assert_array_equal(image[0, :, 0], np.rint(values[0] / 257))


def test_transparency_goes_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0] = (200, 10, 10, 255)
    image = read_image(save(tmp_path / "alpha.png", Image.fromarray(rgba)))
    assert image[0, 0].tolist() == [200, 10, 10]
    assert image[1, 1].tolist() == [255, 255, 255]
    (array,) = as_images(rgba)
    np.testing.assert_array_equal(array, image)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    path = save(tmp_path / "turned.png", Image.fromarray(gradient()), exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(gradient(), -1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 20000)])
def test_extreme_sizes(tmp_path, height, width):
    path = save(tmp_path / "x.png", Image.new("RGB", (width, height), (9, 8, 7)))
    assert read_image(path).shape == (height, width, 3)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image file"):
        read_image(tmp_path / "absent.jpg")


def broken(kind):
    data = io.BytesIO()
    Image.fromarray(gradient(200, 300)).save(data, "JPEG")
    return {"empty": b"", "text": b"<html>not found</html>", "truncated": data.getvalue()[: data.tell() // 2]}[kind]


@pytest.mark.parametrize(
    ("kind", "message"), [("empty", "empty"), ("text", "not an image"), ("truncated", "cannot be decoded")]
)
def test_broken_files(tmp_path, kind, message):
    path = tmp_path / "broken.jpg"
    path.write_bytes(broken(kind))
    with pytest.raises(ValueError, match=message) as error:
        read_image(path)
    assert "broken.jpg" in str(error.value)


def test_a_pil_image_that_turns_out_to_be_truncated():
    with pytest.raises(ValueError, match="PIL image cannot be decoded: image file is truncated"):
        as_images(Image.open(io.BytesIO(broken("truncated"))))


@pytest.mark.filterwarnings("error")
def test_a_tensor_that_requires_grad():
    (pixels,) = as_images(torch.rand(3, 4, 5, requires_grad=True))
    assert pixels.shape == (4, 5, 3)


@pytest.mark.parametrize(
    "image",
    [
        gradient(),
        gradient().astype(np.float32) / 255,
        gradient().transpose(2, 0, 1),
        torch.from_numpy(gradient()),
        torch.from_numpy(gradient()).permute(2, 0, 1),
        torch.from_numpy(gradient())[None].float() / 255,
        torch.from_numpy(gradient()).permute(2, 0, 1)[None].float() / 255,
        Image.fromarray(gradient()),
        [gradient()],
    ],
    ids=["array", "float", "chw array", "tensor", "chw", "nhwc", "nchw", "pil", "list"],
)
def test_every_kind_gives_the_same_pixels(image):
    (pixels,) = as_images(image)
    np.testing.assert_array_equal(np.asarray(pixels), gradient())


def test_grey_arrays_get_three_channels():
    (pixels,) = as_images(gradient()[..., 0])
    assert pixels.shape == (12, 20, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (torch.zeros(4, 4, 3, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), float("nan")), "finite"),
        (np.full((4, 4, 3), np.inf, np.float32), "finite"),
        (np.full((4, 4, 3), 200.0, np.float32), "divide by 255"),
        (np.zeros((5, 4, 5), np.uint8), "C = 1, 3 or 4"),
        (np.zeros((0, 4, 4, 3), np.uint8), "C = 1, 3 or 4"),
        (np.zeros((0, 4, 3), np.uint8), "C = 1, 3 or 4"),
        (np.zeros(4, np.uint8), "C = 1, 3 or 4"),
        (42, "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_not_an_image(image, message):
    with pytest.raises(ValueError, match=message):
        as_images(image)


@pytest.mark.parametrize(("suffix", "most"), [("png", 0), ("webp", 0), ("jpg", 40)])
def test_colours_survive_being_written(tmp_path, suffix, most):
    """A thin red line on black, which a JPEG of halved colour turns brown (by 96 grey levels)."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[20, :, 0] = 255
    write_image(tmp_path / f"a.{suffix}", image)
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - image).max() <= most


def test_urls_and_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "a.png", gradient())
    np.testing.assert_array_equal(read_image("~/a.png"), gradient())
    with pytest.raises(ValueError, match="download it first"):
        read_image("https://example.com/a.jpg")


def test_write_is_all_or_nothing(tmp_path):
    target = tmp_path / "sub" / "map.png"
    write_image(target, gradient())
    np.testing.assert_array_equal(read_image(target), gradient())
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as temporary:
        temporary.write_bytes(b"half a fi")
        raise KeyboardInterrupt
    np.testing.assert_array_equal(read_image(target), gradient())
    assert [p.name for p in target.parent.iterdir()] == ["map.png"]


def test_what_cannot_be_written_is_named(tmp_path):
    """By the name that was asked for, not by that of the temporary file."""
    target = tmp_path / "sub" / "map.png"
    with pytest.raises(OSError, match=re.escape(str(target))), atomic_write(target) as temporary:
        target.parent.rmdir()
        temporary.write_bytes(b"")


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Error(OSError):  # as PyAV's
        filename = property(lambda self: str(temporary.absolute()))

    with pytest.raises(OSError, match=r"No space left on device: 'film\.mp4'"):
        with atomic_write("film.mp4") as temporary:
            raise Error(28, "No space left on device")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(tmp_path / "map.png", gradient())
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_may_not_be_written_to_is_read_without_a_warning(recwarn):
    """Such as np.asarray(picture) of Pillow."""
    frozen = gradient()
    frozen.setflags(write=False)
    (image,) = as_images(frozen)
    assert (image == frozen).all()
    assert not recwarn.list


def test_a_damaged_exif_tag_beside_the_orientation_costs_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    image = Image.fromarray(gradient())
    image.save(tmp_path / "a.jpg", quality=100, exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    # XResolution claims to be ASCII text: Pillow reads that and cannot write it.
    entry = data.index(b"\x01\x1a\x00\x05") if b"\x01\x1a\x00\x05" in data else data.index(b"\x1a\x01\x05\x00")
    damaged = data[entry : entry + 4].replace(b"\x05", b"\x02")
    (tmp_path / "b.jpg").write_bytes(data[:entry] + damaged + data[entry + 4 :])
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows_own(orientation):
    image = Image.fromarray(gradient(6, 9))
    image.getexif()[0x0112] = orientation
    (turned,) = as_images(image)
    np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(image)))


def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", Image.fromarray(gradient()))

    def fail(self):
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ValueError, match=r"x\.png cannot be decoded: Failed to decode frame 0"):
        read_image(path)


def test_a_tensor_from_minus_one_to_one_is_told_how():
    with pytest.raises(ValueError, match=r"take \(x \+ 1\) / 2 first"):
        as_images(torch.linspace(-1, 1, 48).reshape(4, 4, 3))
