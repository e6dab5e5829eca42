"""Draws what a few queries retrieve, with correct and wrong results marked."""

import io

import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image, ImageDraw, ImageOps

from vse_jax import files
from vse_jax.data import records
from vse_jax.evaluation import text_drawing
from vse_jax.evaluation.evaluator import Evaluation
from vse_jax.experiment import Experiment
from vse_jax.similarity import SIMILARITIES

QUERIES = 4
RESULTS = 5
THUMBNAIL = 112  # pixels
BORDER = 4
TEXT_WIDTH = 4 * THUMBNAIL
RIGHT, WRONG = (30, 140, 60), (190, 40, 40)
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)


def retrieved(experiment: Experiment, evaluation: Evaluation) -> np.ndarray | None:
    """Draws what a few captions and a few images of a split retrieve.

    Args:
      experiment: experiment with the dataset of the split.
      evaluation: evaluation of the split.

    Returns:
      `[height, width, 3]` uint8, or None if the dataset has features, not photos.
    """
    if records.content_of(experiment.builder).key != "image":
        return None
    similarity = SIMILARITIES[experiment.config.loss.similarity]
    rows = _text_to_image(experiment.builder, evaluation, similarity)
    rows += _image_to_text(experiment.builder, evaluation, similarity)
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), BACKGROUND)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return np.asarray(sheet)


def save(picture: np.ndarray, path: epath.Path) -> None:
    """Writes a picture, `[height, width, 3]` uint8, to a PNG file, atomically."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    with files.unfinished(path, shared=True) as unfinished:
        unfinished.write_bytes(stream.getvalue())


def _text_to_image(builder, evaluation, similarity):
    index = evaluation.index
    images, captions = evaluation.embeddings
    queries = _spread(len(index.captions))
    scores = similarity(jnp.asarray(images), jnp.asarray(captions[queries]))
    rows = []
    for query, score in zip(queries, np.asarray(scores).T, strict=True):
        results = _top(score)
        right = index.image_id[results] == index.caption_image_id[query]
        photos = _read_images(builder, evaluation.split, results)
        cells = [_text_cell([(index.captions[query], INK)])]
        cells += [
            _image_cell(image, RIGHT if is_right else WRONG)
            for image, is_right in zip(photos, right, strict=True)
        ]
        rows.append(_row(cells))
    return rows


def _image_to_text(builder, evaluation, similarity):
    index = evaluation.index
    images, captions = evaluation.embeddings
    queries = _spread(index.image_count)
    scores = similarity(jnp.asarray(images[queries]), jnp.asarray(captions))
    photos = _read_images(builder, evaluation.split, queries)
    rows = []
    for query, image, score in zip(queries, photos, np.asarray(scores), strict=True):
        results = _top(score)
        right = index.caption_image_id[results] == index.image_id[query]
        lines = [
            (index.captions[result], RIGHT if is_right else WRONG)
            for result, is_right in zip(results, right, strict=True)
        ]
        rows.append(_row([_image_cell(image, BACKGROUND), _text_cell(lines, 1.5)]))
    return rows


def _spread(number):
    return np.unique(np.linspace(0, number - 1, QUERIES).astype(int))


def _top(scores):
    """Returns the indices of the best scores, the best first, at most `RESULTS`."""
    return np.argsort(-scores, kind="stable")[:RESULTS]


def _read_images(builder: tfds.core.DatasetBuilder, split: str, numbers: np.ndarray):
    serialized = records.RecordReader(builder, split).read(numbers)
    content = records.content_of(builder)
    return records.decode_each(content, serialized)


def _image_cell(image, border):
    whole = Image.fromarray(image)  # of any size
    picture = ImageOps.pad(whole, (THUMBNAIL, THUMBNAIL), color=BACKGROUND)
    side = THUMBNAIL + 2 * BORDER
    cell = Image.new("RGB", (side, side), border)
    cell.paste(picture, (BORDER, BORDER))
    return cell


def _text_cell(lines, widths=1.0):
    width = int(TEXT_WIDTH * widths)
    cell = Image.new("RGB", (width, THUMBNAIL + 2 * BORDER), BACKGROUND)
    draw = ImageDraw.Draw(cell)
    fonts = text_drawing.system_fonts()
    top = BORDER
    for text, color in lines:
        top = text_drawing.draw_text(
            draw, (2 * BORDER, top), text, width - 4 * BORDER, color, fonts
        )
    return cell


def _row(cells):
    gap = 2 * BORDER
    width = sum(cell.width + gap for cell in cells)
    row = Image.new("RGB", (width, cells[0].height + gap), BACKGROUND)
    left = 0
    for cell in cells:
        row.paste(cell, (left, 0))
        left += cell.width + gap
    return row
