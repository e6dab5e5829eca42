"""Options of batches and their checks."""

import ml_collections
import tensorflow_datasets as tfds

from vse_jax.data import records
from vse_jax.errors import InputError


def has_photos(
    builder: tfds.core.DatasetBuilder, config: ml_collections.ConfigDict
) -> bool:
    """Checks the options of photos; returns whether images are cropped to one size.

    Raises:
      InputError: if the photos differ in size and none is set, or if the crops are
        invalid; names the option.
    """
    content, size = records.content_of(builder), config.data.image_size
    if content.key != "image":
        return False
    if config.data.crops not in (1, 10):
        raise InputError(f"config.data.crops is {config.data.crops}; expected 1 or 10")
    if size < 0 or (size == 0 and None in content.shape):
        raise InputError(
            f"config.data.image_size is {size}, but the photos of {builder.data_dir} "
            "differ in size; set it to the height and width of the model's input in "
            "pixels, such as 224"
        )
    if size == 0 and config.data.crops != 1:
        raise InputError(
            f"config.data.crops is {config.data.crops}, but config.data.image_size is "
            "0; set config.data.image_size to the height and width of a crop in pixels"
        )
    return size > 0


def own_rows(option: str, size: int, process_index: int, process_count: int) -> slice:
    """Returns this host's rows of a global batch of `size`.

    Raises:
      InputError: if the hosts cannot share the batch equally; names the option.
    """
    if size < 1 or size % process_count:
        raise InputError(
            f"config.{option} is {size}, which {process_count} hosts cannot share "
            f"equally; expected a multiple of {process_count}"
        )
    own = size // process_count
    return slice(process_index * own, (process_index + 1) * own)


def token_lengths(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the lengths in tokens that batches are padded to, ascending.

    The longest is at most the number of positions of a text transformer.

    Raises:
      InputError: if there is no length, or one without room for a token, or if the
        transformer has no room for one.
    """
    lengths = tuple(sorted(config.data.token_lengths))
    if not lengths or lengths[0] < 2:
        raise InputError(
            f"config.data.token_lengths is {lengths}; expected one or more lengths of "
            "at least 2 tokens, for the start and the end, such as (16, 32, 64)"
        )
    positions = config.model.text_tower.positions or lengths[-1]
    if positions < 2:
        raise InputError(
            f"config.model.text_tower.positions is {positions}; expected at least 2, "
            "for the start and the end of a caption"
        )
    return tuple(dict.fromkeys(min(length, positions) for length in lengths))
