"""Parses the captions independently and compares them with the pixels."""

import itertools
import math
import random
import re

import numpy as np
import pytest
import scipy.ndimage
import tensorflow_datasets as tfds

from configs import common
from vse_jax.data import datasets
from vse_jax.data.datasets import shapes
from vse_jax.errors import InputError

COUNTS = (90, 45, 45)
MEANING = {
    **dict.fromkeys(("small", "little", "tiny"), "small"),
    **dict.fromkeys(("large", "big", "huge"), "large"),
    **dict.fromkeys(("cyan", "turquoise"), "cyan"),
    **dict.fromkeys(("purple", "violet"), "purple"),
    **dict.fromkeys(("circle", "disc"), "circle"),
    **dict.fromkeys(("square", "box"), "square"),
    **dict.fromkeys(("above", "over"), "above"),
    **dict.fromkeys(("below", "under", "beneath"), "below"),
    **{word: word for word in ("triangle", "star", "left", "right")},
    **{word: word for word in ("red", "orange", "yellow", "green", "blue", "black")},
}
PALETTE = {
    "red": (215, 40, 40),
    "orange": (250, 145, 25),
    "yellow": (240, 215, 40),
    "green": (40, 150, 60),
    "cyan": (40, 200, 215),
    "blue": (40, 70, 210),
    "purple": (140, 50, 170),
    "black": (30, 30, 30),
}
INVERSE = {"above": "below", "below": "above", "left": "right", "right": "left"}


def make_data(data_dir, counts=COUNTS):
    data = common.get_config().data
    data.builder = "shapes"
    data.data_dir = str(data_dir)
    data.scene_counts = counts
    return data


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    builder = datasets.prepare(make_data(tmp_path_factory.mktemp("shapes")))
    return {name: list(builder.as_data_source(name)) for name in builder.info.splits}


def read_caption(caption):
    """Returns the objects of a caption and its facts (object, relation, object)."""
    things = []

    def number(match):
        things.append(tuple(MEANING[word] for word in match[0].split()[1:]))
        return f"N{len(things) - 1}"

    text = re.sub(r"\ba \w+ \w+ \w+", number, caption)
    text = re.sub(r"(to the |on the )?(left|right) of", r"\2", text)
    text = re.sub(r"(to|on) its (left|right)", r"\2 it", text)
    text = re.sub(r"^there is ", "", text).replace("there is ", "").replace(" ,", "")
    text = " ".join(MEANING.get(word, word) for word in text.split())
    facts = set()
    for n, relation, m in _facts(text):
        facts.add((things[n], relation, things[m]))
        facts.add((things[m], INVERSE[relation], things[n]))
    assert len(facts) == 2 * (len(things) - 1), caption
    return set(things), facts


def _facts(text):
    word = r"(above|below|left|right)"
    forms = {
        rf"N(\d) {word} N(\d)": "a r p",
        rf"N(\d) with N(\d) {word} it": "p a r",
        rf"{word} N(\d) N(\d)": "r p a",
        rf"N(\d) and {word} it N(\d)": "p r a",
        rf"N(\d) with N(\d) {word} it and N(\d) {word} it": "p a r b s",
        rf"N(\d) {word} N(\d) that has N(\d) {word} it": "a r p b s",
        rf"N(\d) {word} it N(\d) and {word} it N(\d)": "p r a s b",
        rf"N(\d) {word} and N(\d) {word} N(\d)": "a r b s p",
        rf"N(\d) {word} N(\d) and {word} N(\d)": "p -r a -s b",
    }
    (names, values), *more = [
        (names.split(), match.groups())
        for form, names in forms.items()
        if (match := re.fullmatch(form, text))
    ]
    assert not more, f"{text} can be read in two ways"
    found = dict(zip(names, values, strict=True))
    for a, r in (("a", "r"), ("b", "s")):
        if a in found:
            relation = found[r] if r in found else INVERSE[found["-" + r]]
            yield int(found[a]), relation, int(found["p"])


def see(image):
    """Returns the objects of an image with their centers, from its pixels alone."""
    difference = np.abs(image.astype(float) - image[0, 0]).sum(axis=2)
    labels, count = scipy.ndimage.label(difference > 30, np.ones((3, 3)))
    masks = [labels == i for i in range(1, count + 1)]
    return [see_object(image, np.where(mask, difference, 0)) for mask in masks]


def see_object(image, difference):
    inside = difference > 0.8 * difference.max()
    coverage = difference / np.median(difference[inside])
    area = coverage.sum()
    color = np.median(image[inside], axis=0)
    name = min(PALETTE, key=lambda name: np.abs(color - PALETTE[name]).sum())
    place = np.indices(coverage.shape)
    center = (coverage * place).sum(axis=(1, 2)) / area
    distance = place - center[:, None, None]
    # 1 of a circle, 1.047 of a square, 1.209 of a triangle, 1.29 of a star; the area of
    # the pixels themselves adds a sixth.
    inertia = (coverage * (distance**2).sum(axis=0)).sum() - area / 6
    number = np.searchsorted([1.015, 1.12, 1.24], 2 * math.pi * inertia / area**2)
    shape = ("circle", "square", "triangle", "star")[number]
    extent = max(np.ptp(np.nonzero(difference), axis=1))
    return ("large" if extent > 15 else "small", name, shape), center


def holds(fact, centers):
    subject, relation, other = fact
    down, right = np.subtract(centers[subject], centers[other])
    if relation in ("above", "below"):
        return abs(down) > 15 > 8 > abs(right) and (relation == "below") == (down > 0)
    return abs(right) > 15 > 8 > abs(down) and (relation == "right") == (right > 0)


def test_every_caption_is_true_and_names_every_object(splits):
    for example in itertools.chain(*splits.values()):
        seen = see(example["image"])
        centers = dict(seen)
        assert len(centers) == len(seen), "two objects cannot be told apart"
        for caption in example["captions"]:
            things, facts = read_caption(caption.decode())
            assert things == set(centers), (example["image_id"], caption)
            assert all(holds(fact, centers) for fact in facts), caption


def test_captions_of_a_scene_say_the_same_in_five_ways(splits):
    for example in itertools.chain(*splits.values()):
        captions = [caption.decode() for caption in example["captions"]]
        assert len(set(captions)) == 5
        assert len({str(sorted(read_caption(c)[1])) for c in captions}) == 1


def test_parser_detects_a_false_caption(splits):
    example = splits["test"][0]
    centers = dict(see(example["image"]))
    _, facts = read_caption(example["captions"][0].decode())
    wrong = [(a, INVERSE[relation], b) for a, relation, b in facts]
    assert not any(holds(fact, centers) for fact in wrong)


def test_no_scene_occurs_twice(splits):
    scenes = [
        str(sorted(read_caption(example["captions"][0].decode())[1]))
        for example in itertools.chain(*splits.values())
    ]
    assert len(set(scenes)) == len(scenes) == sum(COUNTS)


def test_no_caption_is_shared_at_full_size():
    scenes = shapes.sample_scenes((6000, 500, 500))
    assert not set(scenes["train"]) & {*scenes["dev"], *scenes["test"]}
    for split in scenes.values():
        captions = [
            set(shapes.describe(s, random.Random(i))) for i, s in enumerate(split)
        ]
        assert sum(map(len, captions)) == len(set().union(*captions)) == 5 * len(split)


def test_every_third_scene_is_a_near_miss_of_another(splits):
    kinds = set()
    for examples in splits.values():
        read = [read_caption(e["captions"][0].decode()) for e in examples]
        for (things, _), (other_things, _) in zip(read[1::3], read[2::3], strict=True):
            different = sorted(things - other_things), sorted(other_things - things)
            if different == ([], []):
                kinds.add("relation")
                continue
            [thing], [other] = different
            [field] = [i for i in range(3) if thing[i] != other[i]]
            kinds.add(field)
    assert kinds == {0, 1, 2, "relation"}


def test_same_seed_gives_the_same_bytes(tmp_path):
    counts = (7, 2, 2)
    records = []
    for data_dir in (tmp_path / "a", tmp_path / "b"):
        builder = datasets.prepare(make_data(data_dir, counts))
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = builder.as_data_source("train", deserialize_method=raw)
        records.append(source.__getitems__(list(range(7))))
    assert records[0] == records[1]
    assert len(set(records[0])) == 7


def test_size_of_train_does_not_change_the_other_splits():
    small, large = (shapes.sample_scenes((n, 20, 20)) for n in (10, 100))
    assert small["dev"] == large["dev"]
    assert small["test"] == large["test"]


def test_image_ids_and_picture(splits):
    assert [e["image_id"] for e in splits["dev"][:2]] == [b"dev_000000", b"dev_000001"]
    image = splits["dev"][0]["image"]
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("counts", [(0, 5, 5), (5, 5), (10**6, 5, 5)])
def test_refuses_counts_that_cannot_be_drawn(tmp_path, counts):
    with pytest.raises(InputError, match=r"data\.scene_counts is"):
        datasets.prepare(make_data(tmp_path, counts))
    assert not list(tmp_path.iterdir())


def test_name_of_other_counts_is_refused(tmp_path):
    data = make_data(tmp_path, (6, 2, 2))
    data.name = "mine"
    datasets.prepare(data)
    data.scene_counts = (7, 2, 2)
    with pytest.raises(InputError, match=r"config\.data\.scene_counts=\(6, 2, 2\)"):
        datasets.prepare(data)


def test_all_combinations_are_used_evenly():
    scenes = shapes.sample_scenes((3000, 1, 1))["train"]
    for field in range(3):
        values = [thing[field] for scene in scenes for _, thing in scene]
        counts = [values.count(value) for value in set(values)]
        kinds = (2, 8, 4)[field]
        expected = len(values) / kinds
        assert len(counts) == kinds
        assert max(abs(c - expected) for c in counts) < 6 * math.sqrt(expected)
