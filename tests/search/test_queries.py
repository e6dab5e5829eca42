import pytest

from vse_jax.errors import InputError
from vse_jax.search.queries import Part, Query, combined, parse_weighted, text_query


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog", (1.0, "a dog")),
        ("0.5:snow", (0.5, "snow")),
        (" -2 : a red: bus", (-2.0, "a red: bus")),
        ("2:a ball", (2.0, "a ball")),
        ("2.0: a ball", (2.0, "a ball")),
        (".25:x", (0.25, "x")),
        ("dog: a story", (1.0, "dog: a story")),
        ("1e9:x", (1.0, "1e9:x")),
        ("12:30 on a clock", (1.0, "12:30 on a clock")),
        ("16:9", (1.0, "16:9")),
        ("3: the number on a door", (1.0, "3: the number on a door")),
        ("3.:x", (3.0, "x")),
        ("1.0:2.5:1 is a ratio", (1.0, "2.5:1 is a ratio")),
    ],
)
def test_weights(text, expected):
    assert parse_weighted(text) == expected


def test_a_line_of_a_file_has_no_weight():
    assert text_query("0.5:1 on a sign").parts == (Part(1, "0.5:1 on a sign"),)


def test_combined_queries():
    query = combined(["a dog", "2:a ball"], ["0.5:snow"], ["10:15.jpg"], ["b.jpg"])
    assert query.name == "a dog + 2.0:a ball + 10:15.jpg - 0.5:snow - b.jpg"
    assert [part.weight for part in query.parts] == [1, 2, 1, -0.5, -1]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "the query is empty; expected words or a photo"),
        ((Part(1, " \n"),), "the query is empty; expected at least one word"),
        ((Part(1, photo=""),), "the query is empty; expected the path of a photo"),
        ((Part(0, "dog"),), "the weight of 'dog' is 0; expected a number from 0.001"),
        ((Part(-1e39, "dog"),), r"is -1e\+39; expected a number from 0.001 to 1000.0"),
        ((Part(float("nan"), "dog"),), "the weight of 'dog' is nan"),
    ],
)
def test_invalid_queries(parts, message):
    with pytest.raises(InputError, match=message):
        Query(parts).check()
