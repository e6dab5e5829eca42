"""Embeds the images and captions of a split on all devices and hosts."""

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from vse_jax import parallel
from vse_jax.compile_ahead import Compilation
from vse_jax.data import input_pipeline
from vse_jax.data.split_index import SplitIndex, split_index
from vse_jax.errors import TrainingError
from vse_jax.experiment import Experiment
from vse_jax.progress import Progress
from vse_jax.train_step import make_embed_steps


class Embeddings(NamedTuple):
    """Embeddings of a split, in the order of the split.

    Attributes:
      images: `[images, embed]` float32, or `[models, images, embed]` for an ensemble.
      captions: `[captions, embed]` float32, or `[models, captions, embed]`.
    """

    images: np.ndarray
    captions: np.ndarray


class Embedder:
    """Embeds splits of an experiment's dataset; compiles once per batch shape."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        embed_images, embed_captions = make_embed_steps(
            experiment.create_model(train=False)
        )
        self._embed_images, self._embed_captions = (
            parallel.map_over_devices(
                step,
                (parallel.REPLICATED, parallel.SPLIT),
                parallel.REPLICATED,
                backend=experiment.config.mapping,
            )
            for step in (embed_images, embed_captions)
        )

    def programs(self, variables: dict, split: str) -> list[Compilation]:
        """Returns the programs that embed a split, to be compiled ahead of time.

        Args:
          variables: variables of the model, or their shapes.
          split: name of the split.
        """
        batches = {
            f"embedding of {batch['tokens'].shape[1]} tokens": batch
            for batch in self._caption_batches(split)
        }
        programs = [
            self._program(name, self._embed_captions, variables, batch, "caption_index")
            for name, batch in batches.items()
        ]
        with contextlib.closing(self._image_batches(split)) as images:
            batch = next(images)
        images = self._program(
            "embedding of images", self._embed_images, variables, batch, "image_index"
        )
        return [images, *programs]

    def _program(self, name, mapped, variables, batch, position):
        content = {key: array for key, array in batch.items() if key != position}
        shapes = variables, parallel.shapes_of_rows(content)

        def compile_one():
            with self._reporting_memory():
                mapped.compile(*shapes)

        return Compilation(name, compile_one)

    def _reporting_memory(self):
        size = self._experiment.config.evaluation_batch_size
        return parallel.reporting_memory(size, "evaluation_batch_size")

    def _image_batches(self, split):
        builder, config = self._experiment.builder, self._experiment.config
        host = parallel.this_host()
        return input_pipeline.image_batches(builder, split, config, **host)

    def _caption_batches(self, split):
        builder, config = self._experiment.builder, self._experiment.config
        return input_pipeline.caption_batches(
            builder, split, self._experiment.vocabulary, config, **parallel.this_host()
        )

    def embed(self, variables: dict, split: str) -> tuple[SplitIndex, Embeddings]:
        """Embeds a split.

        Args:
          variables: variables of the model, on all devices.
          split: name of the split.

        Returns:
          The split's index, which relates captions to images, and the embeddings.

        Raises:
          InputError: if the split does not exist or is empty.
          TrainingError: if an embedding is not finite, or if memory is insufficient.
        """
        with self._reporting_memory():
            return self._embed(variables, split)

    def _embed(self, variables, split):
        tokenizer = self._experiment.config.data.tokenizer
        index = split_index(self._experiment.builder, split, tokenizer)
        images = _embed_all(
            self._embed_images,
            variables,
            self._image_batches(split),
            position="image_index",
            total=index.image_count,
            what=f"{split} images",
        )
        captions = _embed_all(
            self._embed_captions,
            variables,
            self._caption_batches(split),
            position="caption_index",
            total=len(index.captions),
            what=f"{split} captions",
        )
        return index, Embeddings(images, captions)


def _embed_all(
    embed: Callable,
    variables: dict,
    batches: Iterable[dict],
    *,
    position: str,
    total: int,
    what: str,
) -> np.ndarray:
    """Embeds all rows of a split, `[total, embed]` float32.

    `position` is the key of the rows' positions in the split, which are -1 for padding.
    """
    embeddings = None
    with Progress(f"embedding {what}", total, what.split()[-1]) as progress:
        for batch in batches:
            place = parallel.gather_over_hosts(batch.pop(position))
            embedded = parallel.unreplicate(embed(variables, parallel.shard(batch)))
            exists = place >= 0
            if embeddings is None:
                embeddings = np.full((total, embedded.shape[1]), np.nan, np.float32)
            embeddings[place[exists]] = embedded[exists]
            progress.add(int(exists.sum()))
    if not np.isfinite(embeddings).all():
        raise TrainingError(
            f"some embeddings of the {what} are not finite, so this checkpoint is "
            "invalid; evaluate an earlier one"
        )
    return embeddings
