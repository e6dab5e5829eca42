"""JAX's compilation cache, whose damaged entries are replaced."""

import contextlib
import logging

import jax
from etils import epath
from jax._src import compilation_cache  # it has no public name

from vse_jax.errors import one_line, store_errors

logger = logging.getLogger(__name__)

_read = compilation_cache.get_executable_and_time


def use_folder(folder: epath.Path) -> None:
    """Sets the folder of the cache, local or remote; see `_read_or_remove`."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.get_executable_and_time = _read_or_remove


def _read_or_remove(key, *arguments, **options):
    """Reads a program, and removes an entry that is damaged.

    A process that is killed while it writes an entry, or a full disk, leaves a part of
    it. JAX never writes an entry that exists, so it would warn and compile the program
    again at every later start.
    """
    try:
        return _read(key, *arguments, **options)
    except (OSError, *store_errors()):
        raise  # it could not be read, which does not mean that it is damaged
    except Exception as error:
        entry = epath.Path(jax.config.jax_compilation_cache_dir) / f"{key}-cache"
        logger.warning(
            "%s is damaged (%s): its program is compiled again", entry, one_line(error)
        )
        with contextlib.suppress(OSError, *store_errors()):
            entry.unlink()
        return None, None
