"""The dataset `shapes`: drawn scenes of colored shapes, with five captions each.

A scene has two or three objects on a grid of two rows and two columns. Every caption
names the size, color and shape of each object, and relations that determine its
position. So no two scenes share a caption.
"""

import dataclasses
import functools
import io
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image, ImageDraw

from vse_jax.data.datasets import captioned_images
from vse_jax.errors import InputError

SPLITS = ("train", "dev", "test")
_SEED = 0  # of all random choices
_MAXIMUM_SCENES = 200_000  # in all splits; a million distinct scenes exist

IMAGE_SIZE = 64  # pixels
_OVERSAMPLING = 4
_CELL_CENTERS = (18.0, 46.0)  # pixels
_JITTER = 1.5  # pixels, of each object
_SHADE_JITTER = 14  # of 255, of each color channel

RADII = {"small": 6.0, "large": 11.0}  # pixels
_RADIUS_JITTER = 0.8  # pixels
COLORS = {
    "red": (215, 40, 40),
    "orange": (250, 145, 25),
    "yellow": (240, 215, 40),
    "green": (40, 150, 60),
    "cyan": (40, 200, 215),
    "blue": (40, 70, 210),
    "purple": (140, 50, 170),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star")
_BACKGROUND = 228  # of 255, gray

_SYNONYMS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
}
_RELATED_TO_IT = {  # replace the synonyms before "it"
    "left": ("to its left", "on its left"),
    "right": ("to its right", "on its right"),
}
_INVERSE = {"above": "below", "below": "above", "left": "right", "right": "left"}

# Every other object is related to the pivot: `a_to` relates object a to the pivot that
# follows, `a_to_it` to "it" (the pivot), and `a_from` relates the pivot to object a.
_PAIR_TEMPLATES = (
    "{a} {a_to} {pivot}",
    "{pivot} with {a} {a_to_it}",
    "there is {a} {a_to} {pivot}",
    "{a_to} {pivot} there is {a}",
    "{pivot} and {a_to_it} {a}",
)
_TRIPLE_TEMPLATES = (
    "{pivot} with {a} {a_to_it} and {b} {b_to_it}",
    "{a} {a_to} {pivot} that has {b} {b_to_it}",
    "there is {pivot} , {a_to_it} {a} and {b_to_it} {b}",
    "{a} {a_to} and {b} {b_to} {pivot}",
    "{pivot} {a_from} {a} and {b_from} {b}",
)


class Thing(NamedTuple):
    """An object of a scene."""

    size: str
    color: str
    shape: str


Cell = tuple[int, int]  # row and column
# Cells in order, each with its object. The first row and column are never empty.
Scene = tuple[tuple[Cell, Thing], ...]

_PAIR_LAYOUTS: tuple[tuple[Cell, ...], ...] = (((0, 0), (1, 0)), ((0, 0), (0, 1)))
_ALL_CELLS: tuple[Cell, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
_TRIPLE_LAYOUTS = tuple(
    tuple(cell for cell in _ALL_CELLS if cell != absent) for absent in _ALL_CELLS
)


def sample_scenes(counts: tuple[int, int, int]) -> dict[str, list[Scene]]:
    """Returns distinct scenes for each split; no scene occurs in two splits.

    Every third scene of a split is a near miss of the previous scene: the size, color
    or shape of one object is drawn again, or two objects are swapped.

    Args:
      counts: number of scenes in train, dev and test.
    """
    seen: set[Scene] = set()
    scenes = {}
    # Train is last, so that its size does not change the other splits.
    for split in reversed(SPLITS):
        number = SPLITS.index(split)
        generator = random.Random(f"scenes {_SEED} {split}")
        scenes[split] = _sample_split(counts[number], seen, generator)
    return {split: scenes[split] for split in SPLITS}


def _sample_split(
    count: int, seen: set[Scene], generator: random.Random
) -> list[Scene]:
    scenes: list[Scene] = []
    while len(scenes) < count:
        if len(scenes) % 3 == 2:
            scene = _near_miss(scenes[-1], generator)
        else:
            scene = _sample_scene(generator)
        if scene not in seen and _things_differ(scene):
            seen.add(scene)
            scenes.append(scene)
    return scenes


def _sample_scene(generator: random.Random) -> Scene:
    cells = generator.choice(generator.choice((_PAIR_LAYOUTS, _TRIPLE_LAYOUTS)))
    return tuple((cell, _sample_thing(generator)) for cell in cells)


def _sample_thing(generator: random.Random) -> Thing:
    return Thing(*map(generator.choice, (tuple(RADII), tuple(COLORS), SHAPES)))


def _near_miss(scene: Scene, generator: random.Random) -> Scene:
    cells, things = zip(*scene, strict=True)
    things = list(things)
    first, second = generator.sample(range(len(things)), 2)
    field = generator.choice((*Thing._fields, "place"))
    if field == "place":
        things[first], things[second] = things[second], things[first]
    else:
        value = getattr(_sample_thing(generator), field)
        things[first] = things[first]._replace(**{field: value})
    return tuple(zip(cells, things, strict=True))


def _things_differ(scene: Scene) -> bool:
    """Returns whether all objects differ, so that captions can identify them."""
    return len({thing for _, thing in scene}) == len(scene)


def describe(scene: Scene, generator: random.Random) -> list[str]:
    """Returns five captions that are true of this scene only."""
    templates = _PAIR_TEMPLATES if len(scene) == 2 else _TRIPLE_TEMPLATES
    return [
        template.format(**_words(scene, generator))
        for template in generator.sample(templates, len(templates))
    ]


def _words(scene: Scene, generator: random.Random) -> dict[str, str]:
    """Returns random words for every field of the templates."""
    pivots = [entry for entry in scene if _is_pivot(entry[0], scene)]
    pivot_cell, pivot = generator.choice(pivots)
    others = [entry for entry in scene if entry[0] != pivot_cell]
    generator.shuffle(others)
    words = {"pivot": _noun_phrase(pivot, generator)}
    for name, (cell, thing) in zip("ab", others, strict=False):
        relation = _relation(cell, pivot_cell)
        words[name] = _noun_phrase(thing, generator)
        words[f"{name}_to"] = _choose(relation, generator)
        words[f"{name}_from"] = _choose(_INVERSE[relation], generator)
        words[f"{name}_to_it"] = _relation_to_it(relation, generator)
    return words


def _is_pivot(cell: Cell, scene: Scene) -> bool:
    """Returns whether every other object is in the cell's row or column."""
    return all(cell[0] == other[0] or cell[1] == other[1] for other, _ in scene)


def _relation(cell: Cell, pivot: Cell) -> str:
    if cell[1] == pivot[1]:
        return "above" if cell[0] < pivot[0] else "below"
    return "left" if cell[1] < pivot[1] else "right"


def _noun_phrase(thing: Thing, generator: random.Random) -> str:
    return "a " + " ".join(_choose(word, generator) for word in thing)


def _relation_to_it(relation: str, generator: random.Random) -> str:
    if relation in _RELATED_TO_IT:
        return generator.choice(_RELATED_TO_IT[relation])
    return f"{_choose(relation, generator)} it"


def _choose(word: str, generator: random.Random) -> str:
    return generator.choice(_SYNONYMS.get(word, (word,)))


def draw(scene: Scene, generator: random.Random) -> bytes:
    """Returns the scene as a PNG of 64x64 RGB pixels; objects do not touch."""
    size = IMAGE_SIZE * _OVERSAMPLING
    gray = _BACKGROUND + generator.randint(-_SHADE_JITTER, _SHADE_JITTER)
    image = Image.new("RGB", (size, size), (gray,) * 3)
    canvas = ImageDraw.Draw(image)
    x_places, y_places = _places(scene, generator)
    for (row, column), thing in scene:
        x = x_places[column] + generator.uniform(-_JITTER, _JITTER)
        y = y_places[row] + generator.uniform(-_JITTER, _JITTER)
        radius = RADII[thing.size] + generator.uniform(-_RADIUS_JITTER, _RADIUS_JITTER)
        outline = [
            (x + radius * dx, y + radius * dy) for dx, dy in _outline(thing.shape)
        ]
        pixels = [(_OVERSAMPLING * x, _OVERSAMPLING * y) for x, y in outline]
        canvas.polygon(pixels, fill=_shade(thing.color, generator))
    content = io.BytesIO()
    image.reduce(_OVERSAMPLING).save(content, "PNG")
    return content.getvalue()


def _places(scene: Scene, generator: random.Random) -> list[tuple[float, ...]]:
    """Returns x of each column and y of each row, in pixels.

    The whole scene is shifted at random. A single row or column has more room.
    """
    rows, columns = zip(*(cell for cell, _ in scene), strict=True)
    places = []
    for last in (max(columns), max(rows)):
        centers, room = (_CELL_CENTERS, 3.0) if last else ((IMAGE_SIZE / 2,), 16.0)
        shift = generator.uniform(-room, room)
        places.append(tuple(center + shift for center in centers))
    return places


def _shade(color: str, generator: random.Random) -> tuple[int, ...]:
    jittered = (
        value + generator.randint(-_SHADE_JITTER, _SHADE_JITTER)
        for value in COLORS[color]
    )
    return tuple(min(max(value, 0), 255) for value in jittered)


@functools.cache
def _outline(shape: str) -> list[tuple[float, float]]:
    """Returns the corners (x, y) of a shape of radius 1; y points down."""
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    corners = {"circle": 64, "triangle": 3, "star": 10}[shape]
    radii = itertools.cycle((1.0, 0.42) if shape == "star" else (1.0,))
    angles = (2 * math.pi * i / corners for i in range(corners))
    return [
        (r * math.sin(angle), -r * math.cos(angle))
        for angle, r in zip(angles, radii, strict=False)
    ]


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """Number of scenes in train, dev and test."""

    counts: tuple[int, int, int]


class Shapes(captioned_images.CaptionedImages):
    """Examples of one scene each: `image_id`, five `captions` and `image` (PNG)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(
            shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn scenes of two or three colored shapes, and captions.",
            features=tfds.features.FeaturesDict(
                captioned_images.caption_features() | {"image": image}
            ),
            disable_shuffling=True,
        )

    def _split_plans(self) -> dict[str, captioned_images.SplitPlan]:
        scenes = sample_scenes(self.builder_config.counts)
        return {
            split: captioned_images.SplitPlan(
                image_count=len(scenes[split]),
                image_bytes=2048,
                examples=functools.partial(self._examples, split, scenes[split]),
            )
            for split in SPLITS
        }

    def _examples(
        self, split: str, scenes: list[Scene], start: int, stop: int
    ) -> Iterator[dict[str, Any]]:
        for i in range(start, stop):
            # Each scene has its own generator, so a scene does not depend on `start`.
            generator = random.Random(f"scene {_SEED} {split} {i}")
            yield {
                "image_id": f"{split}_{i:06d}",
                "captions": describe(scenes[i], generator),
                "image": io.BytesIO(draw(scenes[i], generator)),
            }


class ShapesSource:
    """The source of `shapes`: the numbers of scenes in `config.data.scene_counts`."""

    builder_name = Shapes.name
    version = Shapes.VERSION
    downloads = False

    def __init__(self, data: ml_collections.ConfigDict):
        """Initializes the source from `config.data`."""
        self._counts = tuple(data.scene_counts)
        self.config_name = data.name or "-".join(
            f"{split}{count}"
            for split, count in zip(SPLITS, self._counts, strict=False)
        )

    def fingerprint(self) -> dict | None:
        """Returns None, because there are no source files."""
        return None

    def splits(self) -> tuple[str, ...]:
        """Returns the splits that are drawn."""
        return SPLITS

    def builder(self, data_dir: epath.Path, version: tfds.core.Version) -> Shapes:
        """Returns a builder that draws the scenes.

        Raises:
          InputError: if the numbers of scenes are invalid.
        """
        self.check_source()
        config = ShapesConfig(
            name=self.config_name, version=version, counts=self._counts
        )
        return Shapes(data_dir=data_dir, config=config)

    def check_source(self) -> None:
        """Raises InputError if the numbers of scenes are invalid."""
        are_counts = len(self._counts) == 3 and min(self._counts) > 0
        if not are_counts or sum(self._counts) > _MAXIMUM_SCENES:
            raise InputError(
                f"config.data.scene_counts is {self._counts}; expected three positive "
                f"numbers (train, dev and test scenes), at most {_MAXIMUM_SCENES} in "
                "total"
            )

    def check_prepared(self, builder: tfds.core.DatasetBuilder) -> None:
        """Raises InputError if the prepared data has other numbers of scenes."""
        prepared = tuple(builder.info.splits[name].num_examples for name in SPLITS)
        if prepared != self._counts:
            raise InputError(
                f"{builder.data_dir}: was prepared with config.data.scene_counts="
                f"{prepared}, but the option is {self._counts} now; choose another "
                "config.data.name"
            )
