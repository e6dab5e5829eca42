"""Everything that knows of more than one device or more than one host.

A step is written for one device, with the collectives of `collectives`.
`map_over_devices` runs it on all devices.
"""

from vse_jax.parallel.collectives import (
    AXIS,
    axis_size,
    gather,
    own_part,
    position_in_global_batch,
    scatter_sum,
    sum_over_devices,
)
from vse_jax.parallel.hosts import (
    BARRIER_TIMEOUT,
    agree_to_stop,
    gather_over_hosts,
    is_primary_host,
    is_single_host,
    on_all_hosts,
    primary_host_first,
    this_host,
    wait_for_hosts,
)
from vse_jax.parallel.mapping import (
    BACKENDS,
    REPLICATED,
    SPLIT,
    Mapped,
    all_devices,
    fetch_rows,
    fetch_split,
    map_over_devices,
    map_over_local_devices,
    put_rows,
    put_split,
    replicate,
    replicate_on_host,
    shard,
    unreplicate,
)
from vse_jax.parallel.setup import (
    check_batch_size,
    check_microbatches,
    reporting_memory,
    select_platform,
    set_up,
)

__all__ = [
    "AXIS",
    "BACKENDS",
    "BARRIER_TIMEOUT",
    "REPLICATED",
    "SPLIT",
    "Mapped",
    "agree_to_stop",
    "all_devices",
    "axis_size",
    "check_batch_size",
    "check_microbatches",
    "fetch_rows",
    "fetch_split",
    "gather",
    "gather_over_hosts",
    "is_primary_host",
    "is_single_host",
    "map_over_devices",
    "map_over_local_devices",
    "on_all_hosts",
    "own_part",
    "position_in_global_batch",
    "primary_host_first",
    "put_rows",
    "put_split",
    "replicate",
    "replicate_on_host",
    "reporting_memory",
    "scatter_sum",
    "select_platform",
    "set_up",
    "shard",
    "sum_over_devices",
    "this_host",
    "unreplicate",
    "wait_for_hosts",
]
