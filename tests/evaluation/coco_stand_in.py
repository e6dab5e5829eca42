"""A small stand-in for COCO's test split: ground truth of the suites, and embeddings.

The numbers of its images are 0, 1, ..., as those of drawn scenes. The sixth caption of
an image, which is in no split, is right for image 0, as in ECCV Caption.
"""

import csv
import json

import numpy as np

from vse_jax.evaluation import coco_test
from vse_jax.evaluation.embedder import Embeddings

PER_IMAGE = 5
_COLUMNS = {
    "sts_test.csv": ("caption1", "caption2"),
    "sis_test.csv": ("image1", "image2"),
    "sits_test.csv": ("caption", "image"),
}


class CocoStandIn:
    """Files of ground truth in a folder, in the form of those that are published.

    Attributes:
      folder: contains CxC's CSV files, and the files of the package.
      coco: the numbers.
      pairs: rows of the items and the score, by name of the CSV file.
      right_answers: IDs of ECCV Caption's right answers by ID of the query, by `i2t`
        and `t2i`.
    """

    def __init__(self, folder, images, seed=0):
        rng = np.random.default_rng(seed)
        self.folder = folder
        image_id = rng.permutation(images)
        image = np.repeat(np.arange(images), PER_IMAGE)
        caption_id = 100 * (image_id[image] + 1) + np.tile(range(PER_IMAGE), images)
        self.coco = coco_test.CocoTest(image_id, caption_id, image)
        np.save(folder / "coco_test_ids.npy", caption_id)
        owner = zip(caption_id.tolist(), image_id[image].tolist(), strict=True)
        self._write("original_caption_to_image", {c: [i] for c, i in owner})
        captions = len(caption_id)
        self.pairs = {
            "sts_test.csv": self._judge("sts_test.csv", captions, captions, rng),
            "sis_test.csv": self._judge("sis_test.csv", images, images, rng),
            "sits_test.csv": self._judge("sits_test.csv", captions, images, rng),
        }
        self.right_answers = {
            "i2t": self._relate(image_id, caption_id, rng),
            "t2i": self._relate(caption_id, image_id, rng),
        }
        self.right_answers["i2t"].setdefault(0, [int(caption_id[0])]).append(999_999)
        self._write("eccv_image_to_caption", self.right_answers["i2t"])
        self._write("eccv_caption_to_image", self.right_answers["t2i"])

    def _write(self, name, relation):
        (self.folder / f"{name}.json").write_text(json.dumps(relation))

    def _relate(self, queries, candidates, rng):
        """Relates half of the queries to 1 to 5 candidates."""
        chosen = rng.choice(queries, len(queries) // 2, replace=False)
        return {
            int(query): rng.choice(
                candidates, rng.integers(1, 6), replace=False
            ).tolist()
            for query in chosen
        }

    def _judge(self, name, first, second, rng):
        """Judges random pairs, and the last item of `second` never."""
        pairs = 6 * second
        first = rng.integers(0, first - 1, pairs)
        second = rng.integers(0, second - 1, pairs)
        keep = first != second
        score = np.round(rng.uniform(0, 5, pairs), 1)
        first, second, score = first[keep], second[keep], score[keep]
        self.write_csv(name, first, second, score)
        return first, second, score

    def write_csv(self, name, first, second, score):
        """Writes judgements of rows of the items."""
        columns = _COLUMNS[name]
        with (self.folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, "agg_score", "sampling_method"])
            for one, other, value in zip(first, second, score, strict=True):
                names = map(self._name, columns, (one, other))
                writer.writerow([*names, value, "made_up"])

    def _name(self, column, row):
        if column.startswith("caption"):
            return f"COCO_val2014:sentid:{self.coco.caption_id[row]}"
        return f"COCO_val2014_{self.coco.image_id[row]:012}.jpg"

    def data_file(self, name):
        """Takes the place of `coco_test.data_file`."""
        return self.folder / name

    def embeddings(self, dim=4, seed=0, unit=True):
        """Draws embeddings in the order of `coco`."""
        rng = np.random.default_rng(seed)
        sides = [
            rng.normal(size=(number, dim)).astype(np.float32)
            for number in (len(self.coco.image_id), len(self.coco.caption_id))
        ]
        if unit:
            sides = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides]
        return Embeddings(*sides)
