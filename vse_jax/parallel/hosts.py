"""Agreement between hosts, and barriers."""

import contextlib
import hashlib
import itertools
import signal
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vse_jax.errors import InputError

_BARRIER_TIMEOUT = 7 * 24 * 3600  # seconds; one host may prepare data for days
_LONGEST_FAILURE = 1024  # bytes
_barrier_number = itertools.count()  # a name may be used for one barrier only
_stop_number = itertools.count()  # of the calls of `agree_to_stop`


def gather_over_hosts(array: np.ndarray) -> np.ndarray:
    """Concatenates the hosts' `[rows, ...]` in order, as `gather` orders devices."""
    if jax.process_count() == 1:
        return array
    gathered = multihost_utils.process_allgather(array)
    return gathered.reshape(-1, *array.shape[1:])


def failures_of_hosts(failure: str) -> list[str]:
    """Returns what failed on each host; all hosts must call it.

    Args:
      failure: what failed on this host, in one line; empty if nothing did.
    """
    if is_single_host():
        return [failure]
    own = failure.encode()[:_LONGEST_FAILURE].ljust(_LONGEST_FAILURE, b"\0")
    gathered = _gather_bytes("tried the same", own)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in gathered]


def check_same_on_hosts(what: str, text: str, advice: str) -> None:
    """Checks that something is the same on all hosts, all of which must call it.

    Args:
      what: the thing, for the message.
      text: describes it.
      advice: what to do if it is not.

    Raises:
      InputError: on all hosts, if a host has another text than host 0.
    """
    if is_single_host():
        return
    digests = _gather_bytes(
        "can compare what they have", hashlib.sha256(text.encode()).digest()
    )
    others = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(others):
        raise InputError(
            f"{what} is not the same on host {others[0]} as on host 0; {advice}"
        )


def _gather_bytes(name, own):
    """Gathers equally many bytes of each host, `[hosts, bytes]`, with a barrier."""
    # A host that is late by minutes would make the collective time out.
    wait_for_hosts(name)
    return multihost_utils.process_allgather(np.frombuffer(own, np.uint8))


def agree_to_stop(received: bool) -> bool:
    """Whether all hosts stop after this step, since one or more received a signal.

    All hosts must call it after every step.

    Args:
      received: whether this host received a signal. With several hosts JAX notes
        SIGTERM itself, so this need only be set for other signals.
    """
    if is_single_host():
        return received
    if received:
        signal.raise_signal(signal.SIGTERM)  # JAX's handler tells the other hosts
    # JAX's service agrees on a number that no host has passed yet. The step would not
    # do: it begins anew with each seed of a process.
    return multihost_utils.reached_preemption_sync_point(next(_stop_number))


def is_single_host() -> bool:
    """Whether there is no other host."""
    return jax.process_count() == 1


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have called it with the same `name`."""
    # Not a collective of the devices, which would time out within minutes.
    wait = ocp.multihost.get_barrier_sync_fn()
    key = f"vse_jax {name} {next(_barrier_number)}"
    wait(key=key, timeout_ms=1000 * _BARRIER_TIMEOUT)


@contextlib.contextmanager
def primary_host_first(name: str) -> Iterator[None]:
    """Runs the body on the primary host first, then on the others.

    Args:
      name: the same on all hosts.
    """
    if not is_primary_host():
        wait_for_hosts(name)
    yield
    if is_primary_host():
        wait_for_hosts(name)


def this_host() -> dict[str, int]:
    """This host's index and the number of hosts, as the input pipeline's arguments."""
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def is_primary_host() -> bool:
    """Whether this is the host that prints, and writes reports and curves."""
    return jax.process_index() == 0
