"""Everything that knows of more than one device or more than one host.

A step is written for one device, with the collectives of `collectives`.
`map_over_devices` runs it on all devices.
"""

from vse_jax.parallel.collectives import (
    AXIS,
    gather,
    position_in_global_batch,
    sum_over_devices,
)
from vse_jax.parallel.hosts import (
    BARRIER_TIMEOUT,
    agree_to_stop,
    first_failure,
    gather_over_hosts,
    is_primary_host,
    is_single_host,
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
    map_over_devices,
    map_over_local_devices,
    put_rows,
    replicate,
    replicate_on_host,
    seconds_compiling,
    shapes_of_rows,
    shard,
    unreplicate,
    waiting_for_compiler,
)
from vse_jax.parallel.setup import (
    check_batch_size,
    reporting_memory,
    select_platform,
    set_up,
)
from vse_jax.parallel.tables import (
    Memory,
    device_memory,
    fill_table,
    rows_of_this_host,
    rows_per_device,
    take_rows,
)

__all__ = [
    "AXIS",
    "BACKENDS",
    "BARRIER_TIMEOUT",
    "REPLICATED",
    "SPLIT",
    "Mapped",
    "Memory",
    "agree_to_stop",
    "all_devices",
    "check_batch_size",
    "device_memory",
    "fetch_rows",
    "fill_table",
    "first_failure",
    "gather",
    "gather_over_hosts",
    "is_primary_host",
    "is_single_host",
    "map_over_devices",
    "map_over_local_devices",
    "position_in_global_batch",
    "primary_host_first",
    "put_rows",
    "replicate",
    "replicate_on_host",
    "reporting_memory",
    "rows_of_this_host",
    "rows_per_device",
    "seconds_compiling",
    "select_platform",
    "set_up",
    "shapes_of_rows",
    "shard",
    "sum_over_devices",
    "take_rows",
    "this_host",
    "unreplicate",
    "wait_for_hosts",
    "waiting_for_compiler",
]
