"""Every configuration is valid and listed in README.md."""

import importlib
import pathlib
import re

import pytest

from vse_jax.run_config import check_options

REPOSITORY = pathlib.Path(__file__).parents[1]
SHARED = ("__init__", "common", "vsepp")  # modules that configurations import
NAMES = sorted(
    path.stem
    for path in (REPOSITORY / "configs").glob("*.py")
    if path.stem not in SHARED
)


def module(name):
    return importlib.import_module(f"configs.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_accepted(name):
    config = module(name).get_config()
    config.model.backbone.weights = config.model.backbone.name and "weights.pth"
    check_options(config)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if re.search("_(vse0|vsepp|order)$", name)]
)
def test_precomputed_features_need_no_backbone(name):
    config = module(name).get_config("features")
    assert not config.model.backbone.name
    assert not config.fine_tuning
    assert config.data.builder == "region_features"
    check_options(config)


@pytest.mark.parametrize("images", ["photos", "features"])
@pytest.mark.parametrize("dataset", ["coco", "f8k"])
def test_vse0_uses_all_negatives_from_the_first_step(dataset, images):
    loss = module(f"{dataset}_vse0").get_config(images).loss
    assert (loss.mining, loss.warmup_mining, loss.warmup_epochs) == ("all", "", 0)


def test_unknown_form_of_images_is_refused():
    with pytest.raises(ValueError, match="expected photos or features"):
        module("coco_vsepp").get_config("movies")


@pytest.mark.parametrize("name", NAMES)
def test_docstring_has_the_command(name):
    assert f"--config configs/{name}.py" in module(name).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_it(name):
    readme = (REPOSITORY / "README.md").read_text()
    assert re.search(rf"^\|.*`{name}\.py`.*\|$", readme, re.MULTILINE)
