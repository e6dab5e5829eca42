"""What clients are told of galleries of all kinds."""

import types

import pytest

from tests.serving.color_searcher import COLORS, MARKUP, ColorSearcher, id_of
from vse_jax.serving.descriptions import Descriptions, kinds_of_queries


class Searcher(ColorSearcher):
    """A searcher of another kind."""

    def __init__(self, content="images", similarity="cosine", takes_photos=True):
        super().__init__()
        self.gallery.content, self.gallery.similarity = content, similarity
        self.model.image_input = types.SimpleNamespace(takes_photos=takes_photos)

    def picture(self, row):
        return super().picture(row) if self.gallery.content == "images" else None


@pytest.mark.parametrize(
    ("content", "similarity", "takes_photos", "kinds"),
    [
        ("images", "cosine", True, ["text", "photo", "like", "sum"]),
        ("images", "cosine", False, ["text", "like", "sum"]),
        ("captions", "cosine", True, ["text", "photo", "like", "sum"]),
        # Order similarities are between an image and a caption, one of each.
        ("images", "order", True, ["text"]),
        ("captions", "order", True, ["photo"]),
        ("captions", "order", False, []),
    ],
)
def test_possible_queries(content, similarity, takes_photos, kinds):
    assert kinds_of_queries(Searcher(content, similarity, takes_photos)) == kinds


def test_samples_and_examples():
    described = Descriptions(Searcher()).gallery
    samples = described["samples"]
    assert [sample["id"] for sample in samples] == list(map(id_of, COLORS))
    assert samples[0]["captions"] == ["a red thing", MARKUP]
    assert samples[0]["image"].startswith("/image/photos%20of/%C3%BCn")
    assert described["pictures"]
    assert described["examples"] == ["a green thing", "a yellow thing", "a pink thing"]


def test_captions_have_no_pictures():
    described = Descriptions(Searcher("captions")).gallery
    assert not described["pictures"]
    assert described["samples"][0]["image"] is None


def test_no_captions_give_no_examples():
    searcher = Searcher()
    rows = [
        record._replace(captions=None) for record in searcher.gallery.rows_at([0, 1])
    ]
    searcher.gallery.rows = 2
    searcher.gallery.rows_at = lambda numbers: [rows[number] for number in numbers]
    described = Descriptions(searcher).gallery
    assert described["examples"] == []
    assert [sample["captions"] for sample in described["samples"]] == [[], []]
