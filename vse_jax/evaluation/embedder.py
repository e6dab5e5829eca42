"""Embeds the images and captions of a split on all devices and hosts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from vse_jax import parallel
from vse_jax.data import input_pipeline
from vse_jax.data.split_index import SplitIndex, split_index
from vse_jax.errors import TrainingError
from vse_jax.experiment import Experiment
from vse_jax.progress import Progress
from vse_jax.train_step import make_embed_steps


class Embeddings(NamedTuple):
    """Embeddings of a split, in the order of the split.

    Attributes:
      images: `[images, embed]` float32.
      captions: `[captions, embed]` float32.
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
        size = self._experiment.config.evaluation_batch_size
        with parallel.reporting_memory(size, "evaluation_batch_size"):
            return self._embed(variables, split)

    def _embed(self, variables, split):
        builder, config = self._experiment.builder, self._experiment.config
        host = parallel.this_host()
        index = split_index(builder, split, config.data.tokenizer)
        images = _embed_all(
            self._embed_images,
            variables,
            input_pipeline.image_batches(builder, split, config, **host),
            position="image_index",
            total=index.image_count,
            what=f"{split} images",
        )
        captions = _embed_all(
            self._embed_captions,
            variables,
            input_pipeline.caption_batches(
                builder, split, self._experiment.vocabulary, config, **host
            ),
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
