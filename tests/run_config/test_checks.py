import ml_collections
import pytest

from configs import common
from vse_jax import run_config
from vse_jax.errors import InputError


def refusal(config):
    """Returns the message of invalid options, which is one line."""
    with pytest.raises(InputError) as error:
        run_config.check_options(config)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_defaults_are_valid(config):
    run_config.check_options(config)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("dtype", "float16", "'float32', 'bfloat16'"),
        ("data.tokenizer", "spacy", "'nltk', 'nltk_sentences'"),
        ("data.vocabulary", "mine", "'dataset', 'checkpoint'"),
        ("model.image_encoder", "resnet", "'region_residual'"),
        ("model.text_encoder", "lstm", "'bigru_gpo'"),
        ("loss.name", "clip", "'infonce', 'sigmoid'"),
        ("loss.scale", -1.0, "at least 0"),
        ("loss.triplet_weight", float("inf"), "at least 0"),
        ("loss.bias", float("-inf"), "a finite number"),
        ("model.pooling", "sum", "'gpo', 'esa'"),
        ("optimizer.schedule", "linear", "'steps', 'cosine'"),
        ("optimizer.warmup_epochs", 25.0, "less than config.epochs, which is 25"),
        ("optimizer.warmup_epochs", -1.0, "at least 0"),
        ("loss.mining", "hard", "'hardest'"),
        ("loss.views", 0, "at least 1"),
        ("loss.warmup_mining", "none", "'', 'all'"),
        ("loss.warmup_epochs", -1, "at least 0"),
        ("loss.reduction", "max", "'mean', 'sum'"),
        ("loss.similarity", "dot", "'cosine', 'order'"),
        ("optimizer.name", "sgd", "'adam', 'adamw'"),
        ("seed", -1, "0 to 4294967295"),
        ("seed", 2**32, "0 to 4294967295"),
        ("batch_size", 0, "at least 1"),
        ("microbatches", 0, "at least 1"),
        ("epochs", -1, "at least 1"),
        ("log_every_steps", 0, "at least 1"),
        ("checkpoint_every_steps", 0, "at least 1"),
        ("evaluate_every_epochs", 0, "at least 1"),
        ("evaluation_batch_size", 0, "at least 1"),
        ("model.embed_dim", 0, "at least 1"),
        ("model.word_dim", 0, "at least 1"),
        ("optimizer.learning_rate", 0.0, "more than 0"),
        ("optimizer.decay_factor", -0.1, "more than 0"),
        ("optimizer.learning_rate", float("inf"), "and finite"),
        ("optimizer.gradient_clip", -1.0, "at least 0"),
        ("optimizer.weight_decay", -0.01, "at least 0"),
        ("loss.margin", float("nan"), "at least 0"),
        ("loss.epsilon", -0.1, "at least 0"),
        ("data.token_lengths", (16.5, 24), "a tuple of whole numbers"),
        ("data.token_lengths", (1,), "one or more lengths of at least 2 tokens"),
        ("data.token_lengths", (), "one or more lengths of at least 2 tokens"),
        ("data.token_lengths", (24, 2**31), "at least 0 and less than 2147483648"),
        ("model.embed_dim", 10**30, "less than 2147483648"),
        ("batch_size", 2**31, "less than 2147483648"),
        ("data.region_dim", -1, "at least 0"),
        ("data.image_size", 10**30, "less than 65536"),
        ("model.text_tower.positions", 1, "at least 2, for the start and the end"),
        ("data.scene_counts", (10, True, 10), "a tuple of whole numbers"),
        ("data.allowed_missing", 1.5, "a number from 0 to 1"),
        ("data.maximum_pixels", 0, "at least 1"),
        ("data.drop_regions", 1.1, "a number from 0 to 1"),
        ("data.drop_words", -0.1, "a number from 0 to 1"),
        ("model.dropout", 1.0, "at least 0 and less than 1"),
        ("model.text_dropout", -0.1, "at least 0 and less than 1"),
        ("optimizer.average_decay", 1.0, "at least 0 and less than 1"),
    ],
)
def test_invalid_option_is_refused_by_its_name(config, option, value, expected):
    config.update_from_flattened_dict({option: value})
    message = refusal(config)
    assert message.startswith(f"config.{option} is {value!r}; expected ")
    assert expected in message


@pytest.mark.parametrize(
    "stage", [3, ml_collections.ConfigDict({"epochs": 1, "learning_rate": 1.0})]
)
def test_later_stages_are_stages(config, stage):
    good = common.fine_tuning_stage(epochs=1, learning_rate=1e-5)
    config.fine_tuning = (good,)
    run_config.check_options(config)
    config.fine_tuning = (good, stage)
    with pytest.raises(InputError, match=r"config\.fine_tuning\[1\] is not a stage"):
        run_config.check_options(config)


@pytest.mark.parametrize(
    ("option", "value", "message", "needed", "fitting"),
    [
        (
            "loss.warmup_epochs",
            1,
            r"warmup_mining is empty",
            "loss.warmup_mining",
            "all",
        ),
        (
            "loss.warmup_mining",
            "all",
            r"warmup_epochs is 0, so there is no warm-up",
            "loss.warmup_epochs",
            1,
        ),
        (
            "model.backbone.weights",
            "resnet50.pth",
            r"backbone.name is empty",
            "model.backbone.name",
            "stem",
        ),
        (
            "model.text_dropout",
            0.1,
            r"text_dropout is 0\.1.*'bert'; set it to 0",
            "model.text_encoder",
            "bert",
        ),
        (
            "model.text_tower.positions",
            8,
            r"text_tower.positions is 8, .*'bigru_gpo', which is no transformer",
            "model.text_encoder",
            "clip_text",
        ),
    ],
)
def test_option_needs_another(config, option, value, message, needed, fitting):
    config.update_from_flattened_dict({option: value})
    with pytest.raises(InputError, match=message):
        run_config.check_options(config)
    config.update_from_flattened_dict({needed: fitting})
    run_config.check_options(config)


@pytest.mark.parametrize(
    ("options", "option", "advice"),
    [
        ({"name": "infonce", "similarity": "order"}, "similarity", "'triplet'"),
        ({"name": "sigmoid", "similarity": "order"}, "similarity", "'triplet'"),
        ({"scale": 20.0}, "scale", "'infonce' or 'sigmoid'"),
        ({"name": "infonce", "scale": 101.0}, "scale", "learn_scale=False"),
        ({"name": "sigmoid", "triplet_weight": 1.0}, "triplet_weight", "'infonce'"),
        ({"triplet_weight": 1.0}, "triplet_weight", "'infonce'"),
        (
            {"name": "infonce", "warmup_mining": "all", "warmup_epochs": 1},
            "warmup_mining",
            "to ''",
        ),
    ],
)
def test_options_of_a_loss_must_fit_each_other(config, options, option, advice):
    config.loss.update(options)
    message = refusal(config)
    assert message.startswith(f"config.loss.{option} is {options[option]!r}, but ")
    assert advice in message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss.name": "sigmoid"}, "which compares each pair on its own"),
        ({"model.image_encoder": "global"}, "a view is a choice of regions"),
        ({"model.backbone.name": "stem"}, "extract features (--mode=extract)"),
        ({"data.augment": False}, "all views are equal"),
        ({"data.drop_regions": 0.0, "data.drop_words": 0.0}, "all views are equal"),
        ({"loss.views": 17}, "expected at most 16"),
        ({"loss.views": 10**30}, "expected at most 16"),
    ],
)
def test_views_need_a_loss_and_regions_that_are_dropped(config, options, reason):
    config.loss.views = 2
    config.data.drop_regions = 0.0  # words may differ alone
    run_config.check_options(config)
    config.update_from_flattened_dict(options)
    with pytest.raises(InputError) as error:
        run_config.check_options(config)
    message = str(error.value)
    assert message.startswith(f"config.loss.views is {config.loss.views}, but ")
    assert reason in message
    assert "\n" not in message
    config.loss.views = 1
    run_config.check_options(config)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "infonce", "scale": 200.0, "learn_scale": False},
        {"name": "sigmoid", "scale": 200.0},
        {
            "name": "infonce",
            "triplet_weight": 10.0,
            "warmup_mining": "all",
            "warmup_epochs": 1,
        },
    ],
)
def test_fitting_options_of_a_loss_are_accepted(config, options):
    config.loss.update(options)
    run_config.check_options(config)


@pytest.mark.parametrize(
    "epochs", [("a",), (-1,), (float("nan"),), (float("inf"),), ((1, 2),)]
)
def test_decay_epochs_are_numbers(config, epochs):
    config.optimizer.decay_epochs = epochs
    with pytest.raises(InputError, match=r"^config\.optimizer\.decay_epochs is "):
        run_config.check_options(config)


def test_weight_decay_of_a_group_needs_adamw(config):
    config.optimizer.groups = (common.parameter_group("text/.*", weight_decay=0.1),)
    run_config.check_options(config)
    config.optimizer.name = "adam"
    with pytest.raises(InputError, match=r"groups\[0\]\.weight_decay is 0\.1, but"):
        run_config.check_options(config)


def test_groups_of_all_stages_are_checked(config):
    good = common.parameter_group("text/.*")
    bad = common.parameter_group("text/(")
    config.optimizer.groups = (good,)
    config.fine_tuning = (
        common.fine_tuning_stage(epochs=1, learning_rate=1e-5, groups=(good, bad)),
    )
    with pytest.raises(InputError, match=r"^config\.fine_tuning\[0\]\.groups\[1\]\."):
        run_config.check_options(config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dtype", "int8", "'float16', 'float32'"),
        ("index", "flat", "'', 'ivf', 'hnsw'"),
        ("bank_size", 0, "at least 1"),
    ],
)
def test_options_of_galleries(config, name, value, expected):
    run_config.check_gallery_options(config.gallery)
    config.gallery[name] = value
    with pytest.raises(InputError, match=rf"^config\.gallery\.{name} is .*{expected}"):
        run_config.check_gallery_options(config.gallery)
    with pytest.raises(InputError, match=rf"^config\.gallery\.{name} is .*{expected}"):
        run_config.check_options(config)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("stem", 50, "a multiple of 4"), ("stem", 12, "at least 16"), ("vgg19", 31, "32")],
)
def test_size_of_photos_must_fit_the_backbone(config, name, size, expected):
    config.model.backbone.name, config.model.backbone.weights = name, "file.pth"
    config.data.image_size = size
    for check in (run_config.check_options, run_config.check_extraction_options):
        with pytest.raises(InputError, match=f"image_size is {size}.*{expected}"):
            check(config)


def test_stem_gives_no_global_feature(config):
    config.model.backbone.name = "stem"
    config.model.image_encoder = "global"
    with pytest.raises(InputError, match=r"'stem', which gives no global feature"):
        run_config.check_options(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("decay_epochs", ("a",)),
        ("schedule", "x"),
        ("warmup_epochs", 1.0),
    ],
)
def test_options_of_a_fine_tuning_stage_are_checked(config, option, value):
    good = common.fine_tuning_stage(epochs=1, learning_rate=1e-5)
    config.fine_tuning = (good, good.copy_and_resolve_references())
    run_config.check_options(config)
    config.fine_tuning[1][option] = value
    with pytest.raises(InputError) as error:
        run_config.check_options(config)
    assert str(error.value).startswith(f"config.fine_tuning[1].{option} is {value!r}")


def test_dotted_names_reach_into_groups(config):
    config.loss.margin = 0.7
    assert run_config.value_of(config, "loss.margin") == 0.7
    assert run_config.value_of(config, "seed") == config.seed


@pytest.mark.parametrize(
    ("size", "resize", "message"),
    [
        (24, 20, r"data\.resize is 20, which is smaller than .*image_size \(24\)"),
        (24, -1, r"data\.resize is -1, which is smaller"),
        (0, 24, r"data\.resize is 24, but config\.data\.image_size is 0"),
    ],
)
def test_crop_fits_into_the_resized_photo(config, size, resize, message):
    config.data.image_size, config.data.resize = size, resize
    for check in (run_config.check_options, run_config.check_extraction_options):
        with pytest.raises(InputError, match=message):
            check(config)
    config.data.resize = size
    run_config.check_options(config)
