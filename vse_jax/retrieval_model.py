"""A trained model for use in Python: `vse_jax.load`.

    import vse_jax

    model = vse_jax.load("runs/f8k_rvse")
    captions = model.embed_captions(["a dog on a beach"])
    images = model.embed_images(["beach.jpg", "street.jpg"])
    model.similarity(images, captions)

It reads no flags, and changes neither the log nor JAX's options. Threads may share it.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

import jax
import ml_collections
import numpy as np
from absl import logging as absl_logging

from vse_jax import parallel, run_config, saved_model, storage
from vse_jax.checkpoint import Restored
from vse_jax.data.batch_options import token_lengths
from vse_jax.data.text import tokenizers, vocabularies
from vse_jax.data.text.encoded_captions import batches_by_length, encode_texts
from vse_jax.errors import InputError
from vse_jax.image_inputs import ImageInput, Images
from vse_jax.models.vse import VSE, create_model
from vse_jax.similarity import BYTES, SIMILARITIES

Caption = str
_ROWS = (8, 32, 64)  # of batches, besides `config.evaluation_batch_size`
_TILE_BYTES = 2**28  # of similarities that are computed at once


def load(
    path: str | os.PathLike,
    checkpoint: str | int = "best",
    *,
    maximum_pixels: int | None = None,
) -> "RetrievalModel":
    """Loads a trained model.

    Args:
      path: folder of a run, or of an export; may be `gs://`.
      checkpoint: `best` on the validation split, `latest`, or a step.
      maximum_pixels: largest width times height of a photo in a file. Larger photos are
        refused. None is `config.data.maximum_pixels` of the run. PIL has a limit of its
        own, `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
      InputError: if there is no such model, or if it cannot be read.
    """
    path = os.fspath(path)
    storage.check_reachable([("the folder of the model", path)])
    with _without_orbax_warnings():
        restored = saved_model.restore(path, str(checkpoint))
    backbone = saved_model.extraction_backbone(path, restored)
    return RetrievalModel(restored, backbone, maximum_pixels)


class RetrievalModel:
    """Embeds captions and images into one space; compiles once per batch shape.

    Attributes:
      config: configuration of the training.
      vocabulary: words that the model knows.
      restored: the checkpoint, without its variables.
      fingerprint: digest of all that decides an embedding.
      similarity_name: name in `similarity.SIMILARITIES`.
      embed_dim: dimensions of an embedding.
      image_input: how the model takes images.
    """

    def __init__(
        self,
        restored: Restored,
        backbone: dict | None = None,
        maximum_pixels: int | None = None,
    ):
        """Puts the parameters on this host's devices.

        Args:
          restored: a checkpoint, see `saved_model.restore`.
          backbone: variables of the backbone that extracted the training's features;
            without it, such a model takes features but no photos.
          maximum_pixels: see `load`.
        """
        self.config = run_config.from_json(restored.run["config"])
        self.config.dtype = restored.run["dtype"]
        self.vocabulary = vocabularies.of_run(restored.run)
        self.restored = restored._replace(variables={}, optimizer={})
        self.fingerprint = saved_model.fingerprint(restored)
        self.similarity_name = self.config.loss.similarity
        self.embed_dim = self.config.model.embed_dim
        self._lengths = token_lengths(self.config)
        self._model = create_model(self.config, len(self.vocabulary), train=False)
        self._variables = parallel.replicate_on_host(restored.variables)
        self._embed_captions = _on_local_devices(self._caption_step)
        self.image_input = ImageInput(restored, backbone, maximum_pixels)
        self._extraction = parallel.replicate_on_host(self.image_input.parameters)
        self._embed_images = _on_local_devices(self._image_step)

    def __repr__(self) -> str:
        """Returns the encoders, the dimensions and the fingerprint."""
        model = self.config.model
        return (
            f"RetrievalModel({model.image_encoder}, {model.text_encoder}, "
            f"{self.embed_dim} dimensions, {self.fingerprint})"
        )

    def embed_captions(
        self, captions: Caption | Iterable[Caption], *, name: str = ""
    ) -> np.ndarray:
        """Embeds captions; words that the vocabulary lacks become `<unk>`.

        Args:
          captions: any number of captions; one alone is a list of one. Captions of more
            tokens than the largest of `config.data.token_lengths` are truncated.
          name: what the captions are, to log how many are truncated; "" logs nothing.

        Returns:
          `[captions, embed]` float32.

        Raises:
          InputError: if a caption is not a string.
        """
        texts = [captions] if isinstance(captions, str) else list(captions)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"caption {number} is {type(text).__name__}; expected a string"
                )
        if not texts:
            return self._empty()
        encoded = encode_texts(
            list(map(_without_half_characters, texts)),
            self.vocabulary,
            self.config.data.tokenizer,
            self._lengths[-1],
            name,
        )
        embeddings = np.empty((len(texts), self.embed_dim), np.float32)
        for batch in batches_by_length(encoded, self._rows(len(texts)), self._lengths):
            number = batch.pop("caption_index")
            embedded = self._run(self._embed_captions, self._variables, batch)
            embeddings[number[number >= 0]] = embedded[number >= 0]
        return _checked(embeddings, "caption")

    def embed_images(self, images: Images) -> np.ndarray:
        """Embeds photos or features of images.

        Photos are cropped as in an evaluation. A model that was trained on extracted
        features takes photos too: they pass through the backbone of the extraction.

        Args:
          images: any number of images: paths, contents of files (bytes), PIL images,
            arrays uint8 `[height, width, 3]`, or features: floating-point
            `[regions, dim]` or `[dim]`, whichever the model was trained on. One image
            alone is a list of one.

        Returns:
          `[images, embed]` float32.

        Raises:
          InputError: if an image cannot be read or is not what the model takes; names
            its position.
        """
        contents = self.image_input.read_all(images)
        parts = [embedded for _, embedded in self.embed_stream(contents)]
        return np.concatenate(parts) if parts else self._empty()

    def embed_stream(
        self, contents: Iterable[tuple[object, np.ndarray]]
    ) -> Iterator[tuple[list, np.ndarray]]:
        """Embeds contents of images as they come, in batches.

        Args:
          contents: pairs of any key and the content of an image, which
            `image_input.read` returned.

        Yields:
          The keys of a batch and its embeddings, `[batch, embed]` float32.

        Raises:
          InputError: if an embedding is not finite.
        """
        waiting = None  # the next batch is read while the devices compute this one
        for keys, batch in self._stack(contents):
            parameters = self._variables, self._extraction
            computed = self._start(self._embed_images, parameters, batch)
            if waiting is not None:
                yield _fetched(*waiting)
            waiting = keys, computed
        if waiting is not None:
            yield _fetched(*waiting)

    def _stack(self, contents):
        """Yields keys and padded batches of contents of equal shape."""
        size = self._rows(self.config.evaluation_batch_size)
        keys, rows = [], []
        for key, content in contents:
            if rows and not self.image_input.stacks(rows[-1], content):
                yield keys, self._padded(rows)
                keys, rows = [], []
            keys.append(key)
            rows.append(content)
            if len(rows) == size:
                yield keys, self._padded(rows)
                keys, rows = [], []
        if rows:
            yield keys, self._padded(rows)

    def _padded(self, rows):
        """Returns a batch with copies of the last row up to a batch's size."""
        padding = self._rows(len(rows)) - len(rows)
        return self.image_input.batch([*rows, *rows[-1:] * padding])

    def similarity(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Returns the similarity of each image to each caption.

        Args:
          images: `[images, embed]`, of `embed_images`.
          captions: `[captions, embed]`, of `embed_captions`.

        Returns:
          `[images, captions]` float32: dot products, or order similarities for a model
          that was trained on these.

        Raises:
          InputError: if the arrays do not have this model's dimensions.
        """
        images = self._checked_embeddings("images", images)
        captions = self._checked_embeddings("captions", captions)
        rows = max(1, _TILE_BYTES // (BYTES * max(1, len(captions))))
        compute = parallel.jit_in_float32(SIMILARITIES[self.similarity_name])
        similarities = np.empty((len(images), len(captions)), np.float32)
        for start in range(0, len(images), rows):
            tile = slice(start, start + rows)
            similarities[tile] = compute(images[tile], captions)
        return similarities

    def _checked_embeddings(self, name, embeddings) -> np.ndarray:
        try:
            array = np.asarray(embeddings, np.float32)
        except (TypeError, ValueError):
            raise InputError(
                f"{name} is no array of numbers; expected [{name}, {self.embed_dim}]"
            ) from None
        if array.ndim != 2 or array.shape[1] != self.embed_dim:
            raise InputError(
                f"{name} has the shape {list(array.shape)}; expected "
                f"[{name}, {self.embed_dim}]"
            )
        return array

    def unknown_words(self, caption: Caption) -> tuple[list[str], list[str]]:
        """Returns all words of a caption, and those that the vocabulary lacks."""
        text = _without_half_characters(caption)
        words = tokenizers.tokenize(text, self.config.data.tokenizer)
        unknown = self.vocabulary.lacks(words)
        return words, [
            w for w, is_unknown in zip(words, unknown, strict=True) if is_unknown
        ]

    def is_truncated(self, caption: Caption) -> bool:
        """Returns whether a caption has more tokens than the model reads."""
        text = _without_half_characters(caption)
        _, (count,) = self.vocabulary.encode_texts([text], self.config.data.tokenizer)
        return bool(count > self._lengths[-1])

    def _caption_step(self, variables, batch):
        return self._model.apply(variables, batch, method=VSE.embed_captions)

    def _image_step(self, parameters, batch):
        variables, extraction = parameters
        batch = self.image_input.to_model_input(extraction, batch)
        return self._model.apply(variables, batch, method=VSE.embed_images)

    def _rows(self, count):
        """Returns the rows of the smallest batch that holds `count` rows, if any."""
        devices = parallel.local_device_count()
        sizes = sorted({*_ROWS, self.config.evaluation_batch_size})
        fitting = next((size for size in sizes if size >= count), sizes[-1])
        return -(-fitting // devices) * devices

    def _run(self, step, parameters, batch):
        return parallel.fetch_rows(self._start(step, parameters, batch))

    def _start(self, step, parameters, batch):
        with _precision(self.config):
            return step(parameters, parallel.shard(batch))

    def _empty(self):
        return np.zeros((0, self.embed_dim), np.float32)


@contextlib.contextmanager
def _without_orbax_warnings():
    """Hides Orbax's warnings that the checkpoints are opened to be read only."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def _on_local_devices(step):
    return parallel.map_over_local_devices(
        step, (parallel.REPLICATED, parallel.SPLIT), parallel.SPLIT
    )


def _precision(config: ml_collections.ConfigDict):
    """Returns a context in which products have the precision of an evaluation."""
    full = "float32" if config.dtype == "float32" else None
    return jax.default_matmul_precision(full)


def _fetched(keys, computed):
    embeddings = parallel.fetch_rows(computed)[: len(keys)]
    return keys, _checked(embeddings, "image")


def _checked(embeddings: np.ndarray, what: str) -> np.ndarray:
    finite = np.isfinite(embeddings).all(1)
    if not finite.all():
        raise InputError(
            f"the embedding of {what} {int(finite.argmin())} is not finite; if that is "
            "so for others too, the checkpoint is invalid: load an earlier one"
        )
    return embeddings


def _without_half_characters(text: str) -> str:
    """Replaces halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
