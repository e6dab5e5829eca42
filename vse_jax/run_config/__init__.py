"""The configuration of a run.

Options are checked here, saved with the run, overridden when a checkpoint is evaluated,
and compared when a run is resumed. `configs/common.py` documents each option.
"""

from vse_jax.run_config.checks import (
    check_extraction_options,
    check_gallery_options,
    check_options,
    fits_backbone,
)
from vse_jax.run_config.complete import check_complete
from vse_jax.run_config.saved import (
    EVALUATION_OPTIONS,
    FREE_OPTIONS,
    IMPORTED_FROM,
    check_same_but_seed,
    check_same_run,
    describe,
    describe_geometry,
    flatten,
    from_json,
    merge,
)
from vse_jax.run_config.values import value_of

__all__ = [
    "EVALUATION_OPTIONS",
    "FREE_OPTIONS",
    "IMPORTED_FROM",
    "check_complete",
    "check_extraction_options",
    "check_gallery_options",
    "check_options",
    "check_same_but_seed",
    "check_same_run",
    "describe",
    "describe_geometry",
    "fits_backbone",
    "flatten",
    "from_json",
    "merge",
    "value_of",
]
