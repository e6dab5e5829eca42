"""Compares the input pipeline with naive versions that read record by record."""

import io
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import common
from tests import damaged_npz
from vse_jax.data import input_pipeline, reading, split_index
from vse_jax.data.sampling import Sampler
from vse_jax.data.text import encoded_captions
from vse_jax.data.text.vocabulary import Vocabulary, training_vocabulary
from vse_jax.errors import InputError


def _config(
    batch_size=8,
    evaluation_batch_size=10,
    augment=False,
    lengths=(8, 12, 24),
    views=1,
):
    config = common.get_config()
    config.loss.views = views
    config.batch_size = batch_size
    config.evaluation_batch_size = evaluation_batch_size
    config.data.augment = augment
    config.data.token_lengths = lengths
    return config


def _train(builder, config, start_step=0, num_steps=12, **hosts):
    batches = list(
        input_pipeline.train_batches(
            builder,
            config,
            _plan(builder, config, **hosts),
            start_step=start_step,
            num_steps=num_steps,
        )
    )
    assert len(batches) == num_steps
    return batches


def _plan(builder, config, **hosts):
    vocabulary = training_vocabulary(builder, 1)
    return input_pipeline.training_plan(builder, vocabulary, config, **hosts)


def _assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key, value in batch.items():
        assert value.dtype == other[key].dtype
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def _padded(caption, vocabulary, time):
    encoded = vocabulary.encode(caption)
    return np.pad(encoded, (0, time - len(encoded)))


@pytest.fixture
def builder(make_builder):
    return make_builder(
        train=make_builder.examples(37),
        dev=make_builder.examples(13, captions=np.arange(13) % 4 + 1, seed=1),
    )


def test_train_batches_equal_the_records(builder, make_builder):
    examples = make_builder.examples(37)
    vocabulary = training_vocabulary(builder, 1)
    config = _config()
    sampler = Sampler(config.seed, np.full(37, 5), 8)
    for step, batch in enumerate(_train(builder, config)):
        rows = sampler.rows(step)
        pairs = [
            (examples[i], examples[i]["captions"][c])
            for i, c in zip(rows.image, rows.caption, strict=True)
        ]
        lengths = [len(vocabulary.encode(caption)) for _, caption in pairs]
        time = next(n for n in (8, 12, 24) if n >= max(lengths))
        assert batch["tokens"].dtype == batch["token_count"].dtype == np.int32
        assert batch["token_count"].tolist() == lengths
        np.testing.assert_array_equal(
            batch["tokens"], [_padded(c, vocabulary, time) for _, c in pairs]
        )
        assert batch["regions"].dtype == np.float16
        np.testing.assert_array_equal(
            batch["regions"], [e["regions"] for e, _ in pairs]
        )
        np.testing.assert_array_equal(batch["region_count"], 6)
        np.testing.assert_array_equal(batch["image_id"], rows.image)


_AUGMENTATIONS = [(False, 1), (True, 1), (True, 2)]


@pytest.mark.parametrize(("augment", "views"), _AUGMENTATIONS)
def test_same_batch_wherever_the_iterator_starts(builder, augment, views):
    config = _config(augment=augment, views=views)
    straight = _train(builder, config)
    for start in (1, 4, 11):
        resumed = _train(builder, config, start_step=start, num_steps=12 - start)
        assert len(resumed) == 12 - start
        for batch, other in zip(resumed, straight[start:], strict=True):
            _assert_equal(batch, other)


@pytest.mark.parametrize(("augment", "views"), _AUGMENTATIONS)
def test_slices_of_hosts_make_the_global_batch(builder, augment, views):
    config = _config(augment=augment, views=views)
    whole = _train(builder, config)
    hosts = [
        _train(builder, config, process_index=i, process_count=4) for i in range(4)
    ]
    for batch, *slices in zip(whole, *hosts, strict=True):
        joined = {k: np.concatenate([s[k] for s in slices]) for k in batch}
        _assert_equal(joined, batch)


def test_pairs_of_an_epoch(builder):
    config = _config(batch_size=5)
    steps = input_pipeline.steps_per_epoch(builder, config)
    assert steps == 37
    pairs = [
        (image, tuple(tokens[:count]))
        for batch in _train(builder, config, num_steps=steps)
        for image, tokens, count in zip(
            batch["image_id"], batch["tokens"], batch["token_count"], strict=True
        )
    ]
    assert len(set(pairs)) == len(pairs) == 37 * 5


@pytest.mark.parametrize(("drop_regions", "drop_words"), [(0.2, 0.2), (0.5, 0.6)])
def test_augmentation_drops_regions_and_words(
    builder, make_builder, drop_regions, drop_words
):
    regions = [example["regions"] for example in make_builder.examples(37)]
    plain = _train(builder, _config(), num_steps=40)
    config = _config(augment=True)
    assert (config.data.drop_regions, config.data.drop_words) == (0.2, 0.2)
    config.data.update(drop_regions=drop_regions, drop_words=drop_words)
    augmented = _train(builder, config, num_steps=40)
    kept = 0
    for batch in augmented:
        counts = batch["region_count"]
        kept += counts.sum()
        assert counts.min() >= 1
        for image, row, count in zip(
            batch["image_id"], batch["regions"], counts, strict=True
        ):
            old = [r.tolist() for r in regions[image]]
            places = [old.index(r.tolist()) for r in row[:count]]
            assert places == sorted(set(places))
            assert not row[count:].any()
    assert abs(kept / (40 * 8 * 6) - (1 - drop_regions)) < 0.05
    before = sum(batch["token_count"].sum() for batch in plain)
    after = sum(batch["token_count"].sum() for batch in augmented)
    assert abs(1 - after / before - 0.4 * drop_words) < 0.03
    for batch, other in zip(plain, augmented, strict=True):
        np.testing.assert_array_equal(batch["image_id"], other["image_id"])
        longest = other["token_count"].max()
        time = other["tokens"].shape[1]
        assert time == next(n for n in (8, 12, 24) if n >= longest)


def test_views_have_their_own_regions_and_words(builder):
    """The first view is that of a training without views; regions are not moved."""
    plain, whole, batches = (
        _train(builder, _config(augment=augment, views=views), num_steps=40)
        for augment, views in ((True, 1), (False, 1), (True, 3))
    )
    regions, words, kept = [], [], []
    for batch, one, full in zip(batches, plain, whole, strict=True):
        for name in ("regions", "region_count", "image_id"):
            np.testing.assert_array_equal(batch[name], full[name])
        assert batch["tokens"].shape[:2] == batch["token_count"].shape == (8, 3)
        time = min(batch["tokens"].shape[2], one["tokens"].shape[1])
        np.testing.assert_array_equal(
            batch["tokens"][:, 0, :time], one["tokens"][:, :time]
        )
        longest = batch["token_count"].max()
        expected = next(n for n in (8, 12, 24) if n >= longest)
        assert batch["tokens"].shape[2] == expected
        source, count = batch["view_regions"], batch["view_region_count"]
        moved = np.take_along_axis(full["regions"], source[:, 0, :, None], axis=1)
        exists = np.arange(6) < count[:, 0, None]
        np.testing.assert_array_equal(
            np.where(exists[..., None], moved, 0), one["regions"]
        )
        np.testing.assert_array_equal(count[:, 0], one["region_count"])
        sets = np.zeros((8, 3, 6), bool)
        np.put_along_axis(sets, source, np.arange(6) < count[..., None], axis=-1)
        kept.append(sets)
        regions.append((sets[:, 1:] != sets[:, :-1]).any(-1))
        words.append((batch["tokens"][:, 1:] != batch["tokens"][:, :-1]).any(-1))
    # Two views of 6 regions are equal with the probability (0.8 ** 2 + 0.2 ** 2) ** 6.
    assert np.mean(regions) == pytest.approx(1 - 0.68**6, abs=0.05)
    assert np.mean(words) > 0.8
    kept = np.concatenate(kept).astype(float)
    assert kept.mean() == pytest.approx(0.8, abs=0.02)
    together = (kept[:, 0] * kept[:, 1]).mean()
    assert together == pytest.approx(0.64, abs=0.04)  # they are independent


def test_different_seeds_differ(builder):
    config = _config()
    other = _config()
    other.seed = 1
    first, second = _train(builder, config)[0], _train(builder, other)[0]
    assert (first["image_id"] != second["image_id"]).any()


def test_long_captions_are_truncated_and_counted_once(
    builder, make_builder, monkeypatch
):
    messages = []
    monkeypatch.setattr(
        encoded_captions.logger,
        "warning",
        lambda text, *args: messages.append(text % args),
    )
    batches = _train(builder, _config(lengths=(8, 10)), num_steps=20)
    vocabulary = training_vocabulary(builder, 1)
    captions = [c for e in make_builder.examples(37) for c in e["captions"]]
    long = [c for c in captions if len(vocabulary.encode(c)) > 10]
    assert messages == [
        f"train: {len(long)} of 185 captions are truncated to 10 tokens "
        "(config.data.token_lengths, at most the positions of a text transformer)"
    ]
    expected = {(*vocabulary.encode(c)[:9], vocabulary.end) for c in long}
    seen = {
        tuple(tokens)
        for batch in batches
        for tokens, count in zip(batch["tokens"], batch["token_count"], strict=True)
        if count == 10
    }
    assert seen & expected
    assert all(tokens[-1] == vocabulary.end for tokens in seen)
    assert max(batch["tokens"].shape[1] for batch in batches) == 10


def test_images_in_order_and_once(builder, make_builder):
    examples = make_builder.examples(13, captions=np.arange(13) % 4 + 1, seed=1)
    batches = list(input_pipeline.image_batches(builder, "dev", _config()))
    image_id = np.concatenate([batch["image_id"] for batch in batches])
    assert [len(batch["image_id"]) for batch in batches] == [10, 10]
    np.testing.assert_array_equal(image_id, [*range(13), *[-1] * 7])
    regions = np.concatenate([batch["regions"] for batch in batches])
    np.testing.assert_array_equal(regions[:13], [e["regions"] for e in examples])
    assert np.concatenate([b["region_count"] for b in batches]).tolist() == [6] * 20


def test_captions_once_each_with_their_image(builder, make_builder):
    examples = make_builder.examples(13, captions=np.arange(13) % 4 + 1, seed=1)
    captions = [caption for example in examples for caption in example["captions"]]
    owners = [i for i, example in enumerate(examples) for _ in example["captions"]]
    vocabulary = training_vocabulary(builder, 1)
    index = input_pipeline.split_index(builder, "dev")
    assert index.captions == captions
    assert index.image_ids == [example["image_id"] for example in examples]
    assert index.caption_image_id.tolist() == owners
    batches = list(
        input_pipeline.caption_batches(builder, "dev", vocabulary, _config())
    )
    seen = []
    for batch in batches:
        assert len(batch["tokens"]) == 10
        assert batch["tokens"].shape[1] in (8, 12, 24)
        for position, tokens, count in zip(
            batch["caption_index"],
            batch["tokens"],
            batch["token_count"],
            strict=True,
        ):
            if position >= 0:
                seen.append(position)
                encoded = vocabulary.encode(captions[position])
                assert count == len(encoded)
                np.testing.assert_array_equal(tokens[:count], encoded)
                assert not tokens[count:].any()
    assert sorted(seen) == list(range(len(captions)))
    lengths = np.concatenate([batch["token_count"] for batch in batches])
    assert (np.diff(lengths) >= 0).all()


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_hosts_share_the_evaluation(builder, kind):
    vocabulary = training_vocabulary(builder, 1)

    def batches(**hosts):
        if kind == "images":
            return input_pipeline.image_batches(builder, "dev", _config(), **hosts)
        return input_pipeline.caption_batches(
            builder, "dev", vocabulary, _config(), **hosts
        )

    hosts = [batches(process_index=i, process_count=2) for i in range(2)]
    for whole, *slices in zip(batches(), *hosts, strict=True):
        joined = {k: np.concatenate([s[k] for s in slices]) for k in whole}
        _assert_equal(joined, whole)


def test_words_not_in_the_vocabulary_are_unknown(builder):
    vocabulary = Vocabulary(["photo", "image"])
    batches = input_pipeline.caption_batches(builder, "dev", vocabulary, _config())
    tokens = next(iter(batches))["tokens"][0]
    assert tokens[:8].tolist() == [1, 3, 4, 3, 5, 3, 3, 3]


def test_records_of_one_picture_share_their_image_id(make_builder):
    examples = make_builder.examples(20)
    for i, j in ((3, 4), (3, 19)):
        examples[j]["image_id"] = examples[i]["image_id"]
    builder = make_builder(train=examples)
    index = input_pipeline.split_index(builder, "train")
    assert index.image_id[[3, 4, 19]].tolist() == [3, 3, 3]
    assert len(index.image_ids) == len(set(index.image_id.tolist())) == 18
    assert [index.image_ids[i] for i in index.image_id] == [
        example["image_id"] for example in examples
    ]
    np.testing.assert_array_equal(index.caption_image_id, np.repeat(index.image_id, 5))
    batches = list(input_pipeline.image_batches(builder, "train", _config()))
    ids = np.concatenate([batch["image_id"] for batch in batches])
    np.testing.assert_array_equal(ids, index.image_id)


@pytest.mark.parametrize("encoding", ["bytes", "zlib", "none"])
def test_any_number_of_regions_and_any_encoding(make_builder, encoding):
    examples = make_builder.examples(17, regions=np.arange(17) % 5 + 1)
    builder = make_builder(
        {"regions": make_builder.region_features(encoding)}, train=examples
    )
    for augment in (False, True):
        for batch in _train(builder, _config(augment=augment)):
            assert batch["regions"].shape == (8, 5, 8)
            most = batch["image_id"] % 5 + 1
            assert (batch["region_count"] <= most).all()
            assert augment or (batch["region_count"] == most).all()
            for row, image, count in zip(
                batch["regions"],
                batch["image_id"],
                batch["region_count"],
                strict=True,
            ):
                assert not row[count:].any()
                if not augment:
                    np.testing.assert_array_equal(
                        row[:count], examples[image]["regions"]
                    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features(make_builder, dtype):
    examples = make_builder.examples(17)
    for example in examples:
        example["feature"] = example.pop("regions")[0].astype(dtype)
    feature = tfds.features.Tensor(shape=(8,), dtype=dtype, encoding="bytes")
    builder = make_builder({"feature": feature}, train=examples)
    for batch in _train(builder, _config(augment=True), num_steps=3):
        assert batch.keys() == {"image_id", "tokens", "token_count", "feature"}
        assert batch["feature"].dtype == np.float32
        expected = [examples[i]["feature"] for i in batch["image_id"]]
        np.testing.assert_array_equal(batch["feature"], expected)


def _png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def test_images(make_builder):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (17, 12, 10, 3), np.uint8)
    examples = make_builder.examples(17)
    for example, array in zip(examples, pixels, strict=True):
        del example["regions"]
        example["image"] = io.BytesIO(_png(array))
    content = {"image": tfds.features.Image(shape=(12, 10, 3))}
    builder = make_builder(content, train=examples)
    for batch in _train(builder, _config(augment=True), num_steps=3):
        assert batch.keys() == {"image_id", "tokens", "token_count", "image"}
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"], pixels[batch["image_id"]])


def _refused(match, call):
    with pytest.raises(InputError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def test_refuses_a_split_that_does_not_exist(builder):
    match = "no split 'test'; expected one of train, dev"
    vocabulary, config = Vocabulary(["a"]), _config()
    _refused(match, lambda: input_pipeline.split_index(builder, "test"))
    _refused(match, lambda: input_pipeline.image_batches(builder, "test", config))
    _refused(
        match,
        lambda: input_pipeline.caption_batches(builder, "test", vocabulary, config),
    )


def test_refuses_an_empty_split(builder, monkeypatch):
    info = tfds.core.SplitInfo(
        name="dev", shard_lengths=[], num_bytes=0, filename_template=None
    )
    monkeypatch.setattr(builder.info, "_splits", {"dev": info})
    _refused(
        "the split 'dev' is empty", lambda: split_index.split_index(builder, "dev")
    )


def test_refuses_hosts_that_do_not_divide_the_batch(builder):
    _refused(
        r"^config\.batch_size is 8, .* a multiple of 3",
        lambda: _train(builder, _config(), process_count=3),
    )
    for call in (input_pipeline.image_batches, input_pipeline.caption_batches):
        options = [Vocabulary(["a"])] if "caption" in call.__name__ else []
        _refused(
            r"^config\.evaluation_batch_size is 10, .* a multiple of 4",
            lambda call=call, options=options: call(
                builder, "dev", *options, _config(), process_count=4
            ),
        )


def test_refuses_a_batch_larger_than_the_images_allow(builder):
    config = _config(batch_size=20)
    _refused("expected 1 to 19", lambda: _train(builder, config))
    _refused(
        "expected 1 to 19", lambda: input_pipeline.steps_per_epoch(builder, config)
    )


def test_refuses_an_image_without_captions(make_builder):
    examples = make_builder.examples(9, captions=[5, 5, 0, 5, 5, 5, 5, 5, 5])
    builder = make_builder(train=examples)
    _refused(
        r"record 2 \(image image2\) of split 'train' has no caption",
        lambda: _train(builder, _config(batch_size=2)),
    )


def test_refuses_data_without_random_access(make_builder):
    builder = make_builder(train=make_builder.examples(9), file_format="tfrecord")
    _refused("expected ArrayRecord", lambda: _train(builder, _config(batch_size=2)))


def test_refuses_token_lengths_without_room(builder):
    _refused(
        r"^config\.data\.token_lengths is ",
        lambda: _train(builder, _config(lengths=(1, 8))),
    )


def test_damaged_data_is_reported_in_one_line(builder):
    config = _config()
    input_pipeline.split_index(builder, "train")
    (path,) = Path(builder.data_dir).glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[:1000])
    _refused("the split 'train' cannot be read", lambda: _train(builder, config))
    (Path(builder.data_dir) / "index-train-nltk.npz").unlink()
    _refused("the split 'train' cannot be read", lambda: _train(builder, config))


def test_damaged_index_is_built_again(builder):
    index = split_index.split_index(builder, "dev")
    path = Path(builder.data_dir) / "index-dev-nltk.npz"
    whole = path.read_bytes()
    others = [damage(whole) for damage in damaged_npz.WAYS]
    for damaged in (b"", whole[:300], b"x" * 500, whole[: len(whole) // 2], *others):
        path.write_bytes(damaged)
        again = split_index.split_index(builder, "dev")
        assert again.captions == index.captions
        np.testing.assert_array_equal(again.word_ids, index.word_ids)
        assert len(path.read_bytes()) == len(whole)
    assert not [p for p in path.parent.iterdir() if "incomplete" in p.name]


def test_each_tokenizer_has_an_index_of_its_own(make_builder):
    examples = make_builder.examples(2, captions=1)
    captions = ["two dogs run. one barks.", "a dog"]
    for example, caption in zip(examples, captions, strict=True):
        example["captions"] = [caption]
    builder = make_builder(dev=examples)
    for _ in range(2):  # read, and from the cache
        lines = split_index.split_index(builder, "dev", "nltk")
        sentences = split_index.split_index(builder, "dev", "nltk_sentences")
        assert lines.words == ["two", "dogs", "run.", "one", "barks", ".", "a", "dog"]
        assert sentences.words[:4] == ["two", "dogs", "run", "."]


def test_index_of_another_version_of_a_tokenizer_is_not_read(builder, monkeypatch):
    expected = split_index.split_index(builder, "dev").words
    with monkeypatch.context() as context:
        other = {"name": "nltk", "library": "nltk 0.1"}
        context.setattr(split_index.tokenizers, "describe", lambda name: other)
        context.setattr(split_index.tokenizers, "tokenize", lambda *_: ["other"])
        assert split_index.split_index(builder, "dev").words == ["other"]
    assert split_index.split_index(builder, "dev").words == expected


def test_index_survives_the_cache(builder):
    first = split_index.split_index(builder, "dev")
    second = split_index.split_index(builder, "dev")
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert second.words[:4] == ["a", "photo", "of", "image"]


def test_index_without_write_permission(builder, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(split_index.files, "unfinished", refuse)
    assert split_index.split_index(builder, "dev").image_count == 13
    assert not (Path(builder.data_dir) / "index-dev-nltk.npz").exists()


def _endless(builder):
    config = _config()
    return input_pipeline.train_batches(
        builder,
        config,
        _plan(builder, config),
        start_step=0,
        num_steps=1_000_000,
    )


def test_closing_does_not_wait_for_a_tuner(builder, monkeypatch):
    """TensorFlow's autotuner may sleep for up to a minute, at random."""
    monkeypatch.setattr(reading, "Reading", lambda dataset, *_: dataset)
    assert _endless(builder).options().autotune.enabled is False
    images = input_pipeline.image_batches(builder, "train", _config())
    assert images.options().autotune.enabled is False


@pytest.mark.parametrize("views", [1, 2])
def test_batches_without_content_are_planned_alike(builder, views):
    config = _config(augment=True, views=views)
    plan = _plan(builder, config)
    planned = input_pipeline.train_batches(
        builder, config, plan, start_step=0, num_steps=12, with_content=False
    )
    for batch, whole in zip(planned, _train(builder, config), strict=True):
        np.testing.assert_array_equal(batch.pop("image_index"), batch["image_id"])
        if views == 1:
            assert batch.pop("region_source").dtype == np.int32
        del whole["regions"]
        _assert_equal(batch, whole)


@pytest.mark.parametrize(
    ("cores", "batch_bytes", "expected"),
    [
        (2, 1, 2),
        (8, 10**12, 8),  # as few as 8 whatever their size
        (96, 0, 96),
        (96, 128 * 36 * 2048 * 2, 96),
        (224, 128 * 36 * 2048 * 2, 113),  # 4 GiB of records and of arrays
        (96, 10**12, 8),
    ],
)
def test_cores_and_memory_limit_the_reads(monkeypatch, cores, batch_bytes, expected):
    monkeypatch.setattr(reading.os, "cpu_count", lambda: cores)
    assert reading.at_once(batch_bytes) == expected


def test_closing_stops_reading(builder, monkeypatch):
    batches = _endless(builder)
    assert len(list(itertools.islice(batches, 3))) == 3
    batches.close()
    assert list(batches) == []


def test_program_ends_while_batches_are_being_read(builder):
    program = """
        import itertools, sys
        import tensorflow_datasets as tfds
        from configs import common
        from vse_jax.data import input_pipeline
        from vse_jax.data.text import vocabulary
        builder = tfds.builder_from_directory(sys.argv[1])
        config = common.get_config()
        config.batch_size = 8
        words = vocabulary.training_vocabulary(builder, 1)
        plan = input_pipeline.training_plan(builder, words, config)
        batches = input_pipeline.train_batches(
            builder, config, plan, start_step=0, num_steps=1_000_000
        )
        print(len(list(itertools.islice(batches, 3))))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(builder.data_dir)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"
    assert "Traceback" not in done.stderr
