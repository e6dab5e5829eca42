"""Captions in pictures: fonts that have the characters, and lines that fit."""

# ruff: noqa: RUF001

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from vse_jax.evaluation import fonts, text_drawing

WIDTH = 120


@pytest.fixture
def ascii_fonts():
    """The fonts of a machine without installed fonts."""
    return fonts.Fonts(text_drawing.FONT_SIZE, [])


@pytest.fixture
def installed():
    return fonts.Fonts(text_drawing.FONT_SIZE)


@pytest.fixture
def warnings(caplog):
    text_drawing._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, text_drawing.logger.name):
        yield lambda: caplog.messages


def picture(text, some_fonts):
    image = Image.new("L", (WIDTH, 5 * text_drawing.LINE_HEIGHT), 255)
    draw = ImageDraw.Draw(image)
    behind = text_drawing.draw_text(draw, (0, 0), text, WIDTH, 0, some_fonts)
    return np.asarray(image), behind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs.", "A dog runs."),
        (" two\tspaces\u3000here ", "two spaces here"),
        ("café “naïve” – cafe\u0301", 'cafe "naive" - cafe'),
        ("ｄｏｇ，ｃａｔ", "dog,cat"),
        ("一只dog在跑。", "[2 CJK]dog[2 CJK]."),
        ("สุนัข วิ่ง", "[5 THAI] [4 THAI]"),
        ("サッカー", "[4 CJK]"),
        ("a 🐶🐶 ❤\ufe0f", "a [dog face][dog face] [heavy black heart]"),
        ("\ue000", "[1 U+E000]"),
    ],
)
def test_characters_without_a_font_are_described(text, expected, ascii_fonts):
    shown = text_drawing.drawable(text, ascii_fonts)
    # A later version of Pillow's default font may have more than ASCII.
    if all(ascii_fonts.having(c) is None for c in text if not c.isascii()):
        assert shown == expected
    assert all(ascii_fonts.having(character) for character in shown)


def test_missing_fonts_are_logged_once_per_script(ascii_fonts, warnings):
    for caption in ("一只狗", "两只狗", "สุนัข", "猫"):
        text_drawing.drawable(caption, ascii_fonts)
    assert len(warnings()) == 2
    assert "no installed font has CJK letters" in warnings()[0]
    assert "fonts-noto-cjk" in warnings()[0]


@pytest.mark.parametrize("letters", ["ЖЩ", "狗猫", "กข", "あい", "개위", "بج", "שא"])
def test_letters_are_not_drawn_as_boxes(letters, installed, warnings):
    if not all(map(installed.having, letters)):
        pytest.skip(f"no installed font has {letters}")
    assert text_drawing.drawable(letters, installed) == letters
    box, first, second = (picture(text, installed)[0] for text in ("\ufffd", *letters))
    assert first.min() < 128
    assert (first != second).any()
    assert (first != box).any()
    assert not warnings()


def test_one_font_draws_a_whole_line_if_it_can(installed):
    if installed.having("Ж") is None:
        pytest.skip("no installed font has Cyrillic letters")
    ((font, run),) = text_drawing._runs("a dog, собака", installed)
    assert run == "a dog, собака"
    assert font is installed.having("Ж")


@pytest.mark.parametrize("text", ["一个穿蓝色衣服的男人在踢足球" * 3, "x" * 100])
def test_text_without_spaces_is_broken(text, installed):
    lines = text_drawing.wrap(text, WIDTH, installed)
    assert "".join(lines) == text
    assert len(lines) > 2
    lengths = [text_drawing._length(line, installed) for line in lines]
    assert max(lengths) <= WIDTH
    assert min(lengths[:-1]) > WIDTH - 2 * text_drawing.FONT_SIZE


def test_text_with_spaces_is_broken_at_spaces(ascii_fonts):
    text = "a brown dog runs on black-and-white grass"
    lines = text_drawing.wrap(text, WIDTH, ascii_fonts)
    assert " ".join(lines).replace("- ", "-") == text
    assert text_drawing.wrap("", WIDTH, ascii_fonts) == []


def test_next_line_is_below(ascii_fonts):
    drawn, behind = picture("a dog", ascii_fonts)
    assert behind == text_drawing.LINE_HEIGHT
    assert drawn[:behind].min() < 128
    assert (drawn[behind:] == 255).all()


def test_direction_without_raqm(monkeypatch, installed, warnings):
    monkeypatch.setattr(features, "check", lambda name: False)
    text_drawing.drawable("كلب", installed)
    assert "Pillow lacks raqm" in warnings()[0]


def test_damaged_font_is_skipped(tmp_path):
    path = tmp_path / "damaged.ttf"
    path.write_bytes(b"no font")
    some = fonts.Fonts(12, [path, tmp_path / "absent.ttf"])
    assert some.having("狗") is None
    assert some.having("a") is some.default


def test_fonts_with_many_scripts_come_first(tmp_path, monkeypatch):
    names = ["Zapf.ttf", "DejaVuSans-Bold.ttf", "NotoSansCJK-Regular.ttc", "a.otf"]
    for name in [*names, "DejaVuSans.ttf", "readme.txt"]:
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "_FOLDERS", (str(tmp_path), str(tmp_path / "absent")))
    found = [path.name for path in fonts._installed()]
    assert found == [
        "DejaVuSans.ttf",
        "NotoSansCJK-Regular.ttc",
        "a.otf",
        "Zapf.ttf",
        "DejaVuSans-Bold.ttf",
    ]
