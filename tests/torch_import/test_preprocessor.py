import json

import pytest

from vse_jax.errors import InputError
from vse_jax.torch_import import preprocessor

CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.1, 0.2, 0.3],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 240},
}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def write(options, name="preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps(options))
        return str(tmp_path)

    return write


def test_file_of_clip(write):
    read = preprocessor.read("clip_vision", write(CLIP), 336)
    assert read[:4] == (224, 240, "crop_floor", "bicubic")
    assert read.mean == (0.4, 0.5, 0.6)
    assert read.std == (0.1, 0.2, 0.3)


def test_first_files_have_single_numbers(write):
    options = {"crop_size": 336, "do_center_crop": True, "size": 336, "resample": 2}
    read = preprocessor.read("clip_vision", write(options), 224)
    assert read[:4] == (336, 336, "crop_floor", "bilinear")
    assert read.mean[0] == 0.48145466


def test_file_of_siglip(write):
    options = {"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3}
    read = preprocessor.read("siglip_vision", write(options), 224)
    assert read[:4] == (384, 0, "stretch", "bicubic")


@pytest.mark.parametrize("name", ["clip_vision", "siglip_vision"])
def test_a_height_and_a_width_stretch_photos_before_an_equal_crop(name, write):
    """Hugging Face's processors keep the aspect ratio for `shortest_edge` only."""
    side = {"height": 224, "width": 224}
    options = {"size": side, "crop_size": side, "do_center_crop": True}
    assert preprocessor.read(name, write(options), 336)[:3] == (224, 0, "stretch")


@pytest.mark.parametrize(
    ("name", "option", "kind"),
    [
        ("clip_vision", "image_processor_type", "CLIPImageProcessor"),
        ("clip_vision", "image_processor_type", "CLIPImageProcessorFast"),
        ("clip_vision", "feature_extractor_type", "CLIPFeatureExtractor"),
        ("clip_vision", "image_processor_type", "CLIPFeatureExtractor"),
        ("siglip_vision", "image_processor_type", "SiglipImageProcessor"),
        ("siglip_vision", "image_processor_type", "SiglipImageProcessorFast"),
        ("dinov2", "image_processor_type", "BitImageProcessor"),
        ("dinov2", "image_processor_type", "BitImageProcessorFast"),
    ],
)
def test_classes_of_processors(name, option, kind, write):
    sides = {"height": 224, "width": 224}
    folder = write(CLIP | {"size": sides, "do_pad": False, option: kind})
    assert preprocessor.read(name, folder, 224)[:3] == (224, 0, "stretch")


def test_null_means_absent(write):
    """Files of recent versions list options that the processor does not use."""
    names = ("do_center_crop", "crop_size", "image_mean", "resample", "rescale_factor")
    folder = write({"size": {"height": 96, "width": 96}, **dict.fromkeys(names)})
    read = preprocessor.read("siglip_vision", folder, 224)
    assert read == (96, 0, "stretch", "bicubic", (0.5,) * 3, (0.5,) * 3)


def test_processor_of_recent_versions(write):
    folder = write({"image_processor": CLIP}, "processor_config.json")
    assert preprocessor.read("clip_vision", folder, 336)[:2] == (224, 240)


def test_the_recent_file_goes_before_an_old_one(write):
    """So does transformers 5, which does not delete the old file when it saves."""
    folder = write(CLIP)
    write({"processor_class": "CLIPProcessor"}, "processor_config.json")
    assert preprocessor.read("clip_vision", folder, 336)[:2] == (224, 240)
    recent = CLIP | {"size": {"shortest_edge": 256}}
    write({"image_processor": recent}, "processor_config.json")
    assert preprocessor.read("clip_vision", folder, 336)[:2] == (224, 256)


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("clip_vision", 336, (336, 336, "crop_floor", "bicubic")),
        ("siglip_vision", 256, (256, 0, "stretch", "bicubic")),
        # Pretrained at 518 pixels, and evaluated at 224.
        ("dinov2", 518, (224, 256, "crop_floor", "bicubic")),
    ],
)
def test_without_a_file(name, image_size, expected, write):
    assert preprocessor.read(name, "", image_size)[:4] == expected
    folder = write({}, "other.json")
    assert preprocessor.read(name, folder, image_size)[:4] == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"do_normalize": False}, "do_normalize is false, which is not supported"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0; expected 1 / 255"),
        ({"do_resize": "false"}, "do_resize is 'false'; expected true or false"),
        ({"do_center_crop": 1}, "do_center_crop is 1; expected true or false"),
        ({"use_square_size": True}, "asks for use_square_size, which is not"),
        (
            {"do_pad": True, "pad_size": {"height": 9, "width": 9}},
            "asks for do_pad with pad_size",
        ),
        (
            {"size": {"shortest_edge": 240, "longest_edge": 250}},
            "size is {'shortest_edge': 240, 'longest_edge': 250}, which is not",
        ),
        ({"size": {"max_height": 240, "max_width": 250}}, "which is not supported"),
        ({"size": {}}, "size is {}, which is not supported"),
        *(
            ({option: kind}, f"its {option} is {kind!r}, whose steps are not those")
            for option in ("image_processor_type", "feature_extractor_type")
            for kind in ("ConvNextImageProcessor", "ViTFeatureExtractor", ["CLIP"])
        ),
        ({"resample": 0}, "resample is 0; expected one of 1, 2, 3"),
        ({"crop_size": {"height": 224, "width": 112}}, "crop_size is not the side"),
        ({"size": {"shortest_edge": 200}}, "which is less than crop_size, 224"),
        ({"size": {"shortest_edge": "240"}}, "size is not the side of a square"),
        ({"crop_size": True}, "crop_size is not the side of a square"),
        ({"size": {"height": 240, "width": 240}}, "are stretched to size, 240, and"),
        ({"do_center_crop": False}, "so that photos would not be square"),
        ({"do_center_crop": False, "size": 224}, "so that photos would not be square"),
        ({"rescale_factor": "x"}, "rescale_factor is 'x'; expected 1 / 255"),
        ({"resample": [3]}, "resample is [3]; expected one of 1, 2, 3"),
        ({"image_std": [0.1, 0, 0.3]}, "expected three numbers above 0"),
        ({"image_mean": [0.1, "a", 0.3]}, "image_mean is [0.1, 'a', 0.3]; expected"),
        ({"image_mean": [0.5]}, "image_mean is [0.5]; expected three numbers"),
        ({"image_std": ["a", 1, 1]}, "image_std is ['a', 1, 1]; expected three"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'; expected 1 / 255"),
    ],
)
def test_unsupported_options_are_refused(change, expected, write):
    folder = write(CLIP | change)
    with pytest.raises(InputError) as error:
        preprocessor.read("clip_vision", folder, 224)
    message = str(error.value)
    assert message.startswith(f"{folder}/preprocessor_config.json: ")
    assert expected in message


@pytest.mark.parametrize("section", [[1], "x", 3, ["x"] * 1000])
def test_invalid_section_of_photos(section, write):
    folder = write({"image_processor": section}, "processor_config.json")
    with pytest.raises(InputError) as error:
        preprocessor.read("clip_vision", folder, 224)
    start = f"{folder}/processor_config.json: its image_processor is "
    assert str(error.value).startswith(start)
    assert len(str(error.value)) < len(start) + 200


@pytest.mark.parametrize("option", ["image_mean", "image_std", "rescale_factor"])
def test_huge_numbers_are_refused(option, write):
    huge = 10**400
    value = huge if option == "rescale_factor" else [huge] * 3
    folder = write(CLIP | {option: value})
    with pytest.raises(InputError, match=rf"{option} is .*; expected") as error:
        preprocessor.read("clip_vision", folder, 224)
    assert len(str(error.value)) < len(folder) + 250
