"""Small prepared datasets for the tests of the input pipeline."""

import functools

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags


class Small(tfds.core.GeneratorBasedBuilder):
    """A dataset of given examples."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits, content, **options):
        self._splits, self._content = splits, content
        super().__init__(**options)

    def _info(self):
        text = tfds.features.Text()
        features = {
            "image_id": text,
            "captions": tfds.features.Sequence(text),
            **self._content,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {name: enumerate(examples) for name, examples in self._splits.items()}

    def _generate_examples(self):
        raise NotImplementedError


def region_features(encoding="bytes", shape=(None, 8)):
    return tfds.features.Tensor(shape=shape, dtype=np.float16, encoding=encoding)


def make_examples(images, captions=5, regions=6, dim=8, seed=0):
    """Returns examples with distinct regions and distinct captions."""
    rng = np.random.default_rng(seed)
    counts = np.broadcast_to(captions, images)
    region_counts = np.broadcast_to(regions, images)
    return [
        {
            "image_id": f"image{i}",
            "captions": [
                f"a photo of image number{i} in words{c}" + " very" * ((i + c) % 7)
                for c in range(counts[i])
            ],
            "regions": rng.normal(size=(region_counts[i], dim)).astype(np.float16),
        }
        for i in range(images)
    ]


@pytest.fixture
def make_builder(tmp_path):
    """Returns a function that prepares examples: `make_builder(train=[...])`."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def make(content=None, file_format="array_record", **splits):
        builder = Small(
            splits=splits,
            content=content or {"regions": region_features()},
            data_dir=tmp_path,
            file_format=file_format,
        )
        builder.download_and_prepare()
        return builder

    make.region_features = region_features
    make.examples = functools.partial(make_examples)
    return make
