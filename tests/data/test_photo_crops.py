"""Compares crops of photos with naive versions in PIL; tests their distribution."""

import math

import numpy as np
import pytest
import tensorflow as tf
import torch
from PIL import Image, ImageOps

from tests.photo_files import decoded, drawn, encoded
from vse_jax.data import photo_crops, photo_geometry
from vse_jax.exporting import model_card
from vse_jax.run_config import describe_geometry

SHAPES = [(97, 61), (64, 64), (40, 300), (300, 40), (33, 500), (224, 224), (375, 500)]
SIZE, SHORTER = 56, 64
GEOMETRY = photo_geometry.Geometry(SIZE, SHORTER)


def naive_window(numbers, height, width):
    """Returns the window of torchvision's RandomResizedCrop for given numbers."""
    for attempt in range(10):
        area = height * width * (0.08 + 0.92 * numbers[attempt])
        low, high = math.log(3 / 4), math.log(4 / 3)
        ratio = math.exp(low + (high - low) * numbers[10 + attempt])
        own_width = round(math.sqrt(area * ratio))
        own_height = round(math.sqrt(area / ratio))
        if 0 < own_width <= width and 0 < own_height <= height:
            top = int(numbers[20] * (height - own_height + 1))
            left = int(numbers[21] * (width - own_width + 1))
            return top, left, own_height, own_width
    own_height, own_width = height, width
    if width / height < 3 / 4:
        own_height = round(width / (3 / 4))
    elif width / height > 4 / 3:
        own_width = round(height * (4 / 3))
    return (
        (height - own_height) // 2,
        (width - own_width) // 2,
        own_height,
        own_width,
    )


def naive_resized(content):
    """Resizes the shorter side to `SHORTER`, like torchvision's Resize."""
    image = Image.fromarray(decoded(content))
    width, height = image.size
    if width <= height:
        shape = SHORTER, int(SHORTER * height / width)
    else:
        shape = int(SHORTER * width / height), SHORTER
    return np.asarray(image.resize(shape, Image.BILINEAR))


def center(pixels, size):
    top = round((pixels.shape[0] - size) / 2)
    left = round((pixels.shape[1] - size) / 2)
    return pixels[top : top + size, left : left + size]


def numbers_of(count, pass_number=0, seed=0):
    return photo_crops.crop_numbers(seed, np.full(count, pass_number), np.arange(count))


def assert_alike(crops, expected, mean=0.5, most=12):
    """Allows for PIL's rounding to whole levels after each of two passes."""
    difference = np.abs(crops.astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < mean
    assert difference.max() <= most


@pytest.fixture(scope="module", params=["JPEG", "PNG"])
def contents(request):
    return [
        encoded(drawn(width, height, seed), request.param)
        for seed, (width, height) in enumerate(SHAPES)
    ]


def test_random_crops_equal_pil(contents):
    for pass_number in range(3):
        numbers = numbers_of(len(contents), pass_number)
        crops = photo_crops.random_crops(tf.constant(contents), numbers, SIZE).numpy()
        assert crops.dtype == np.uint8
        expected = []
        for content, own in zip(contents, numbers, strict=True):
            pixels = decoded(content)
            top, left, height, width = naive_window(own, *pixels.shape[:2])
            part = Image.fromarray(pixels[top : top + height, left : left + width])
            part = np.asarray(part.resize((SIZE, SIZE), Image.BILINEAR))
            expected.append(part[:, ::-1] if own[22] < 0.5 else part)
        # At the border of a part, the chroma of the JPEG's adjacent pixels is missing.
        assert_alike(crops, expected, most=40)


def test_center_crops_equal_pil(contents):
    crops = photo_crops.center_crops(tf.constant(contents), GEOMETRY).numpy()
    expected = [center(naive_resized(content), SIZE) for content in contents]
    assert_alike(crops, expected, most=24)


def test_centers_that_are_rounded_down(contents):
    """Hugging Face's image processors compute `(side - size) // 2`."""
    size = SHORTER - 7  # the crop begins at 3.5: at 3 rounded down, at 4 half to even
    geometry = photo_geometry.Geometry(size, SHORTER, rounds_down=True)
    crops = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    resized = [naive_resized(content) for content in contents]
    places = [[(side - size) // 2 for side in pixels.shape[:2]] for pixels in resized]
    expected = [
        pixels[top : top + size, left : left + size]
        for pixels, (top, left) in zip(resized, places, strict=True)
    ]
    assert_alike(crops, expected, most=24)
    geometry = geometry._replace(rounds_down=False)
    rounded = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    assert (crops != rounded).any((1, 2, 3)).all()


FILTERS = {"bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


@pytest.mark.parametrize("interpolation", FILTERS)
def test_other_filters_equal_pil(contents, interpolation, monkeypatch):
    geometry = GEOMETRY._replace(interpolation=interpolation)
    crops = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    monkeypatch.setattr(Image, "BILINEAR", FILTERS[interpolation])
    expected = [center(naive_resized(content), SIZE) for content in contents]
    assert_alike(crops, expected, most=24)
    bilinear = photo_crops.center_crops(tf.constant(contents), GEOMETRY).numpy()
    assert (bilinear != crops).any()


def test_stretched_photos_equal_pil(contents):
    geometry = photo_geometry.Geometry(SIZE, 0, "bicubic")
    stretched = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    expected = [
        np.asarray(Image.fromarray(decoded(c)).resize((SIZE, SIZE), Image.BICUBIC))
        for c in contents
    ]
    assert_alike(stretched, expected, most=24)


def test_filter_of_opencv_depends_on_four_pixels(contents):
    """As PyTorch's, which also keeps the width of its filter when a photo shrinks."""
    geometry = photo_geometry.Geometry(SIZE, 0, "opencv")
    stretched = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    for content, found in zip(contents, stretched, strict=True):
        pixels = torch.tensor(decoded(content).transpose(2, 0, 1)[None]).float()
        expected = torch.nn.functional.interpolate(
            pixels, (SIZE, SIZE), mode="bilinear", align_corners=False
        )
        expected = expected[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=0.501)


@pytest.mark.parametrize("interpolation", photo_geometry.INTERPOLATIONS)
@pytest.mark.parametrize(
    ("shorter", "rounds_down"), [(0, False), (SHORTER, False), (SHORTER, True)]
)
def test_code_of_the_model_card_crops_alike(
    contents, interpolation, shorter, rounds_down, tmp_path, monkeypatch
):
    geometry = photo_geometry.Geometry(SIZE, shorter, interpolation, rounds_down)
    crops = photo_crops.center_crops(tf.constant(contents), geometry).numpy()
    photo = describe_geometry(geometry)
    code = model_card._photo_code({"preprocessing": {"photo": photo}})
    monkeypatch.chdir(tmp_path)
    for content, expected in zip(contents, crops, strict=True):
        (tmp_path / "photo.jpg").write_bytes(content)
        variables = {"np": np, "Image": Image, "ImageOps": ImageOps}
        exec(code, variables)
        # PIL's transform rounds down.
        assert_alike(variables["image"][0], expected, mean=0.6, most=24)


def test_ten_crops_equal_pil(contents):
    crops = photo_crops.ten_crops(tf.constant(contents), GEOMETRY).numpy()
    assert crops.shape == (len(contents), 10, SIZE, SIZE, 3)
    for content, ten in zip(contents, crops, strict=True):
        expected = []
        resized = naive_resized(content)
        for pixels in (resized, resized[:, ::-1]):
            expected += [
                pixels[:SIZE, :SIZE],
                pixels[:SIZE, -SIZE:],
                pixels[-SIZE:, :SIZE],
                pixels[-SIZE:, -SIZE:],
                center(pixels, SIZE),
            ]
        assert_alike(ten, expected)


@pytest.mark.parametrize("interpolation", photo_geometry.INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(40, 900), (900, 40), (777, 97), (1500, 130)])
def test_ten_crops_of_narrow_photos_are_those_of_the_whole(
    interpolation, shape, monkeypatch
):
    geometry = GEOMETRY._replace(interpolation=interpolation)
    content = tf.constant([encoded(drawn(*shape, 0), "PNG")])
    of_parts = photo_crops.ten_crops(content, geometry).numpy()
    monkeypatch.setattr(photo_crops, "_LONGEST", 10**6)
    of_whole = photo_crops.ten_crops(content, geometry).numpy()
    # Other filters than `bilinear` reach beyond the part at its border.
    assert_alike(of_parts, of_whole, mean=0.05, most=12)


def test_memory_of_ten_crops_does_not_grow_with_the_longer_side(monkeypatch):
    """The whole would take 12 GB."""
    shapes = []
    resize = photo_crops._resize

    def recorded(pixels, rows, columns, shape, interpolation):
        shapes.append(tuple(tf.unstack(tf.convert_to_tensor(shape))))
        return resize(pixels, rows, columns, shape, interpolation)

    monkeypatch.setattr(photo_crops, "_resize", recorded)
    geometry = photo_geometry.Geometry(224, 256)
    for shape in ((4000, 1), (1, 4000)):
        content = encoded(drawn(*shape, 0), "PNG")
        crops = photo_crops.ten_crops(tf.constant([content]), geometry)
        assert crops.shape == (1, 10, 224, 224, 3)
    assert {tuple(map(int, shape)) for shape in shapes} == {(224, 224)}


def test_windows_equal_the_naive_version():
    window = tf.function(photo_crops.random_window)
    for height, width in (*SHAPES, (1, 1), (2, 1000), (1000, 2)):
        for own in numbers_of(40):
            ours = window(own, tf.constant(height), tf.constant(width))
            assert tuple(int(n) for n in ours) == naive_window(own, height, width)


def test_areas_and_ratios_are_uniform():
    numbers = numbers_of(4000)
    windows = np.array([naive_window(own, 900, 900) for own in numbers])
    window = tf.function(photo_crops.random_window)
    side = tf.constant(900)
    ours = np.array([window(own, side, side) for own in numbers[:500]])
    np.testing.assert_array_equal(ours, windows[:500])
    top, left, height, width = windows.T
    area, ratio = height * width / 900**2, width / height
    assert 0.079 < area.min() < 0.09
    assert 0.745 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.34
    # Large areas with an extreme ratio do not fit, so only small ones are uniform.
    small = area[area < 0.7]
    assert (
        np.abs(np.histogram(small, 6, (0.08, 0.7))[0] / len(small) - 1 / 6).max() < 0.03
    )
    assert abs(np.log(ratio).mean()) < 0.01
    for place, room in ((top, 900 - height), (left, 900 - width)):
        assert abs((place / np.maximum(1, room)).mean() - 0.5) < 0.02
    assert abs((numbers[:, 22] < 0.5).mean() - 0.5) < 0.03


def test_numbers_depend_only_on_seed_pass_and_image():
    whole = numbers_of(50, pass_number=3)
    some = photo_crops.crop_numbers(0, np.full(2, 3), np.array([41, 7]))
    np.testing.assert_array_equal(some, whole[[41, 7]])
    assert not (whole == numbers_of(50, pass_number=4)).any()
    assert not (whole == numbers_of(50, pass_number=3, seed=1)).any()
