"""The dataset, vocabulary and model, which training and evaluation share."""

import dataclasses
import functools
import itertools
import json
import logging
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vse_jax import parallel, run_config
from vse_jax.data import datasets, identity, input_pipeline
from vse_jax.data.datasets import extracted_features
from vse_jax.data.identity import DatasetIdentity, identity_of
from vse_jax.data.records import content_of, has_split
from vse_jax.data.text import unknown_words
from vse_jax.data.text.subwords import Subwords
from vse_jax.data.text.vocabularies import AnyVocabulary
from vse_jax.data.text.vocabulary import Vocabulary, training_vocabulary
from vse_jax.data.training_plan import TrainingPlan
from vse_jax.errors import InputError, TrainingError
from vse_jax.extraction import backbone_file
from vse_jax.models.backbones import BACKBONES, sizes_of, spec_of
from vse_jax.models.image_encoders import ENCODERS
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.models.vse import VSE, create_model
from vse_jax.torch_import import text_weights

logger = logging.getLogger(__name__)

_IDENTITY_FILE = "dataset.npz"  # in the workdir: identity of the dataset


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration with its prepared dataset and its vocabulary."""

    config: ml_collections.ConfigDict
    builder: tfds.core.DatasetBuilder
    vocabulary: AnyVocabulary

    def create_model(self, *, train: bool, train_backbone: bool = True) -> VSE:
        """Returns the model as per-device code."""
        return create_model(
            self.config,
            len(self.vocabulary),
            train=train,
            train_backbone=train_backbone,
            gather_over_devices=parallel.gather,
        )

    @functools.cached_property
    def identity(self) -> DatasetIdentity:
        """Identity of the dataset; the first call for a dataset reads all of it."""
        return identity_of(self.builder)

    def describe(self) -> dict:
        """Returns the description of the run for a checkpoint, as JSON."""
        return run_config.describe(
            self.config,
            self.vocabulary,
            dataset=self.identity.summary(),
            extraction=self.extraction,
            image_size=self._image_size(),
        )

    @functools.cached_property
    def default_split(self) -> str:
        """The test split if the dataset has it, else the validation split.

        That there is none is logged once.
        """
        data, splits = self.config.data, self.builder.info.splits
        if data.test_split in splits:
            return data.test_split
        logger.warning(
            "the dataset has no split %r (config.data.test_split), only %s: evaluating "
            "%r",
            data.test_split,
            ", ".join(splits),
            data.validation_split,
        )
        return data.validation_split

    def _image_size(self):
        content = content_of(self.builder)
        return content.shape[0] or 0 if content.key == "image" else 0

    @functools.cached_property
    def extraction(self) -> dict | None:
        """How the features of the dataset were extracted; None if they were not."""
        return extracted_features.description(self.builder)

    @functools.cached_property
    def pca_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the PCA that projected the features; empty if there is none."""
        return extracted_features.pca_arrays(self.builder)

    @functools.cached_property
    def _files(self):
        return identity.status_of(self.builder)

    def check_not_replaced(self) -> None:
        """Checks that the files of the dataset are those of the first call.

        Raises:
          TrainingError: if another program has replaced them.
        """
        if self._files != identity.status_of(self.builder):
            raise TrainingError(
                f"{self.builder.data_dir}: another program replaced the dataset while "
                "it was in use; restore it and start again, or choose another "
                "--workdir to train on the new data"
            )

    def check_same_dataset(self, saved: dict | None, workdir: str) -> None:
        """Checks that a run is resumed on the dataset that it was trained on.

        Args:
          saved: description in the workdir's checkpoint; None without a checkpoint.
          workdir: folder of the run.

        Raises:
          InputError: if the dataset differs; says what changed.
        """
        changed = saved and self.difference(saved, workdir)
        if not changed:
            return
        if saved["vocabulary"] != json.loads(self.vocabulary.to_json()):
            changed += "; the vocabulary of its training captions differs too"
        raise InputError(
            f"{self.builder.data_dir}: is not the dataset that {workdir} was trained "
            f"on ({changed}); restore it, set config.data.root to that dataset, or "
            "choose another --workdir to train on this one"
        )

    def check_same_on_hosts(self) -> None:
        """Checks that all hosts have the same dataset and vocabulary.

        All hosts must call it. A host whose folder of prepared data is its own prepares
        what is there, and its rows of a batch would be those of other data.

        Raises:
          InputError: if they differ.
        """
        if parallel.is_single_host():
            return
        with parallel.primary_host_first("computed the identity of the dataset"):
            parts = self.identity.summary(), self.vocabulary.to_json()
        parallel.check_same_on_hosts(
            f"the dataset {self.builder.data_dir}",
            json.dumps(parts),
            "set config.data.root and config.data.data_dir to folders that all hosts "
            "share, or copy the same files to all",
        )

    def write_identity(self, workdir: str) -> None:
        """Writes the dataset's identity to the workdir, to describe later changes."""
        directory = epath.Path(workdir).expanduser()
        if parallel.is_primary_host():
            directory.mkdir(parents=True, exist_ok=True)
            identity.write(self.identity, directory / _IDENTITY_FILE)

    def keep_backbone(self, workdir: str, *, is_new: bool) -> None:
        """Copies the backbone that extracted the dataset's features to the workdir.

        Args:
          workdir: folder of the run.
          is_new: whether the run has no checkpoint yet. The folder may then have the
            backbone of other features, which an earlier start left.
        """
        if parallel.is_primary_host():
            directory = epath.Path(workdir).expanduser()
            source = epath.Path(self.builder.data_dir)
            backbone_file.copy(source, directory, replace=is_new)

    def difference(self, saved: dict, workdir: str) -> str | None:
        """Describes how the dataset differs from a checkpoint's; None if it does not.

        Args:
          saved: description in the checkpoint.
          workdir: folder of its run.
        """
        if not saved["dataset"]:
            return None  # an imported model has no dataset
        before = identity.read(epath.Path(workdir).expanduser() / _IDENTITY_FILE)
        return identity.difference(saved["dataset"], before, self.identity)

    @functools.cached_property
    def training_plan(self) -> TrainingPlan:
        """Plan of this host's training batches, see `input_pipeline.training_plan`."""
        return input_pipeline.training_plan(
            self.builder, self.vocabulary, self.config, **parallel.this_host()
        )

    def train_batches(
        self, start_step: int, num_steps: int, *, with_content: bool = True
    ) -> Iterator[dict]:
        """Returns this host's training batches, see `input_pipeline.train_batches`."""
        return input_pipeline.train_batches(
            self.builder,
            self.config,
            self.training_plan,
            start_step=start_step,
            num_steps=num_steps,
            with_content=with_content,
        )

    def log_unknown_words(self, *splits: str) -> None:
        """Logs the share of words in each split that are not in the vocabulary.

        Raises:
          InputError: if a split does not exist or cannot be read.
        """
        tokenizer = self.config.data.tokenizer
        for split in splits:
            input_pipeline.split_index(self.builder, split, tokenizer)
        if parallel.is_primary_host():
            unknown_words.log_unknown_words(
                self.builder, self.vocabulary, splits, tokenizer
            )


def create_experiment(
    config: ml_collections.ConfigDict,
    vocabulary: AnyVocabulary | None = None,
    required_splits: Sequence[str] = (),
) -> Experiment:
    """Creates an experiment; prepares the dataset if necessary.

    Args:
      config: see `configs/common.py`, with the sizes of pretrained weights, see
        `resolve.resolved`.
      vocabulary: vocabulary of a checkpoint; None for that of the pretrained text
        encoder, or of the dataset.
      required_splits: splits that must exist, or else nothing is prepared.

    Raises:
      InputError: if an option or the dataset is invalid, or if the vocabulary is not
        that of the dataset and `config.data.vocabulary` does not allow this.
    """
    run_config.check_options(config)
    # One host prepares the dataset; the others then find it prepared.
    with parallel.primary_host_first("prepared the dataset"):
        builder = datasets.prepare(config.data, required_splits)
    check_content(config, builder)
    if vocabulary is None:
        vocabulary = _new_vocabulary(config, builder)
        check_text_tower(config.model, len(vocabulary))
        return Experiment(config, builder, vocabulary)
    check_text_tower(config.model, len(vocabulary))
    is_of_captions = isinstance(vocabulary, Vocabulary) and has_split(
        builder, config.data.train_split
    )
    is_new = config.data.vocabulary == "dataset" and not config.start_from
    if is_new and is_of_captions:
        check_vocabulary(vocabulary, _of_dataset(config, builder))
    return Experiment(config, builder, vocabulary)


def check_content(
    config: ml_collections.ConfigDict, builder: tfds.core.DatasetBuilder
) -> None:
    """Checks that the dataset has the input of the backbone and the image encoder.

    Raises:
      InputError: if it does not; names the option and the values that fit.
    """
    content = content_of(builder).key
    backbone, encoder = config.model.backbone.name, config.model.image_encoder
    if bool(backbone) != (content == "image"):
        fitting = BACKBONES if content == "image" else ("",)
        raise _unfit(config, "backbone.name", builder, content, fitting)
    if content not in ("image", ENCODERS[encoder].content):
        fitting = [name for name, spec in ENCODERS.items() if spec.content == content]
        raise _unfit(config, "image_encoder", builder, content, fitting)
    if backbone:
        check_photo_size(config, builder)


def check_photo_size(
    config: ml_collections.ConfigDict, builder: tfds.core.DatasetBuilder
) -> None:
    """Checks that the backbone takes photos of one size that are not resized.

    Raises:
      InputError: if it does not.
    """
    size, backbone = content_of(builder).shape[0], config.model.backbone
    if not size or config.data.image_size:
        return
    spec = spec_of(backbone.name, sizes_of(backbone))
    if not run_config.fits_backbone(size, spec):
        raise InputError(
            f"{builder.data_dir}: its photos have {size}x{size} pixels, but "
            f"{backbone.name} needs a multiple of {spec.multiple} of at least "
            f"{spec.region_size}; set config.data.image_size to one, and "
            "config.data.resize, or choose weights with other patches"
        )


def check_text_tower(model: ml_collections.ConfigDict, tokens: int) -> None:
    """Checks that a text transformer has a row for each token.

    A token without one would be embedded as NaN.

    Args:
      model: `config.model`.
      tokens: number of different tokens in the vocabulary.

    Raises:
      InputError: if it has not; names the option.
    """
    if model.text_encoder not in TOWERS:
        return
    tower = model.text_tower
    if 0 < tower.vocabulary_size < tokens:
        raise InputError(
            "config.model.text_tower.vocabulary_size is "
            f"{tower.vocabulary_size}, but the vocabulary has {tokens} different "
            f"tokens; set it to {tokens} or more, or to 0 for as many as there are"
        )
    rows = tower.vocabulary_size or tokens
    if model.text_encoder == "siglip_text" and tower.padding >= rows:
        raise InputError(
            f"config.model.text_tower.padding is {tower.padding}, but the model has "
            f"{rows} different tokens; set it to a number from 0 to {rows - 1}"
        )


def _unfit(config, option, builder, content, fitting):
    value = run_config.value_of(config.model, option)
    advice = f"set it to {' or '.join(map(repr, fitting))}"
    if config.start_from:  # which decides the model
        advice = (
            f"that is the model of config.start_from, {config.start_from}: choose "
            "another one, or a dataset of what it takes (config.data.builder)"
        )
    return InputError(
        f"config.model.{option} is {value!r}, but the dataset {builder.data_dir} has "
        f"{content!r} as input; {advice}"
    )


def check_vocabulary(of_checkpoint: AnyVocabulary, of_dataset: AnyVocabulary) -> None:
    """Checks that the vocabulary of a checkpoint is that of the dataset.

    Raises:
      InputError: if it is not; names the first word that differs.
    """
    if of_checkpoint == of_dataset:
        return
    if isinstance(of_checkpoint, Subwords) or isinstance(of_dataset, Subwords):
        raise InputError(
            f"the tokens of the checkpoint, {of_checkpoint}, are not those of its text "
            f"encoder, {of_dataset}; set config.model.text_weights as in its training"
        )
    pairs = itertools.zip_longest(of_checkpoint.words, of_dataset.words)
    number, (saved, found) = next(
        (i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]
    )
    raise InputError(
        f"the checkpoint's vocabulary ({len(of_checkpoint)} words) is not that of the "
        f"dataset's training captions ({len(of_dataset)} words): word {number} is "
        f"{saved!r} in the checkpoint and {found!r} in the dataset; set "
        "config.data.root to the dataset that it was trained on, or "
        "config.data.vocabulary=checkpoint to evaluate on another"
    )


def _new_vocabulary(config, builder) -> AnyVocabulary:
    if config.model.text_weights:
        return text_weights.read_tokenizer(config)
    return _of_dataset(config, builder)


def _of_dataset(config, builder) -> Vocabulary:
    data = config.data
    return training_vocabulary(
        builder, data.minimum_word_count, data.train_split, data.tokenizer
    )
