import pytest

from configs import common
from vse_jax import options
from vse_jax.errors import InputError


def test_defaults_are_taken(config):
    options.check_options(config)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("dtype", "float16", "'float32', 'bfloat16'"),
        ("data.tokenizer", "spacy", "'nltk', 'nltk_sentences'"),
        ("data.vocabulary", "mine", "'dataset', 'checkpoint'"),
        ("model.image_encoder", "resnet", "'region_residual'"),
        ("model.text_encoder", "bert", "'bigru_gpo'"),
        ("loss.mining", "hard", "'hardest'"),
        ("loss.warmup_mining", "none", "'', 'all'"),
        ("loss.reduction", "max", "'mean', 'sum'"),
        ("loss.similarity", "dot", "'cosine', 'order'"),
        ("optimizer.name", "sgd", "'adam', 'adamw'"),
        ("batch_size", 0, "at least 1"),
        ("epochs", -1, "at least 1"),
        ("log_every_steps", 0, "at least 1"),
        ("checkpoint_every_steps", 0, "at least 1"),
        ("evaluate_every_epochs", 0, "at least 1"),
        ("evaluation_batch_size", 0, "at least 1"),
        ("model.embed_dim", 0, "at least 1"),
        ("model.word_dim", 0, "at least 1"),
        ("optimizer.learning_rate", 0.0, "more than 0"),
        ("optimizer.decay_factor", -0.1, "more than 0"),
    ],
)
def test_option_that_cannot_be_is_refused_by_its_name(config, option, value, expected):
    config.update_from_flattened_dict({option: value})
    with pytest.raises(InputError) as error:
        options.check_options(config)
    message = str(error.value)
    assert message.startswith(f"config.{option} is {value!r}, expected ")
    assert expected in message
    assert "\n" not in message


def test_warm_up_needs_a_mining(config):
    config.loss.warmup_epochs = 1
    with pytest.raises(InputError, match=r"warmup_mining is empty"):
        options.check_options(config)
    config.loss.warmup_mining = "all"
    options.check_options(config)


def test_weights_need_an_architecture(config):
    config.model.backbone.weights = "resnet50.pth"
    with pytest.raises(InputError, match=r"backbone.name is empty"):
        options.check_options(config)
    config.model.backbone.name = "stem"
    options.check_options(config)


def test_frozen_backbone_needs_weights(config):
    config.model.backbone.name = "efficientnet_lite0"
    config.model.backbone.trainable = False
    with pytest.raises(InputError, match=r"trainable is False"):
        options.check_options(config)
    config.model.backbone.weights = "lite0.pth"
    options.check_options(config)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("stem", 50, "a multiple of 4"), ("stem", 12, "at least 16"), ("vgg19", 31, "32")],
)
def test_photos_have_a_size_that_the_backbone_takes(config, name, size, expected):
    config.model.backbone.name, config.model.backbone.weights = name, "file.pth"
    config.data.image_size = size
    for check in (options.check_options, options.check_extraction_options):
        with pytest.raises(InputError, match=f"image_size is {size}.*{expected}"):
            check(config)


def test_stem_gives_no_global_feature(config):
    config.model.backbone.name = "stem"
    config.model.image_encoder = "global"
    with pytest.raises(InputError, match=r"'stem', which gives no global feature"):
        options.check_options(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("learning_rate", 0.0), ("decay_epochs", ("a",))],
)
def test_options_of_a_fine_tuning_stage_are_checked(config, option, value):
    good = common.fine_tuning_stage(epochs=1, learning_rate=1e-5)
    config.fine_tuning = (good, good.copy_and_resolve_references())
    options.check_options(config)
    config.fine_tuning[1][option] = value
    with pytest.raises(InputError) as error:
        options.check_options(config)
    assert str(error.value).startswith(f"config.fine_tuning[1].{option} is {value!r}")


def test_dotted_names_reach_into_groups(config):
    config.loss.margin = 0.7
    assert options.value_of(config, "loss.margin") == 0.7
    assert options.value_of(config, "seed") == config.seed
