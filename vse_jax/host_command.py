"""What a host was started with, which must be the same on all hosts.

With other options a host would make other steps: with another batch size the hosts stop
in a collective, and with another learning rate their parameters drift apart unnoticed.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from importlib import metadata

# Options of one host; all others are equal on all hosts.
OWN_OPTIONS = (
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "connection_timeout",
    "compilation_cache",
    "data.local_copy",
)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax")
_ABSENT = "(absent)"
_LONGEST = 100  # characters of a value in a message


def describe(
    flags: Mapping[str, object], options: Mapping[str, object]
) -> dict[str, str]:
    """Returns all that decides what a host does, by the names that people type.

    Args:
      flags: values of the command line's flags by name, without the configuration.
      options: values of the configuration's options by dotted name.
    """
    return (
        {f"--{name}": str(value) for name, value in flags.items()}
        | {
            f"--config.{name}": str(value)
            for name, value in options.items()
            if name not in OWN_OPTIONS
        }
        | {f"version of {name}": metadata.version(name) for name in _LIBRARIES}
        | {"code of vse_jax": _digest_of_code()}
    )


def difference(
    number: int, command: Mapping[str, str], expected: Mapping[str, str]
) -> str:
    """Returns how the command of a host differs from that of host 0; "" if equal.

    Args:
      number: of the host.
      command: its command, from `describe`.
      expected: the command of host 0.
    """
    names = [
        name
        for name in {**expected, **command}
        if command.get(name) != expected.get(name)
    ]
    if not names:
        return ""
    first, others = names[0], len(names) - 1
    more = f" ({others} more differ)" if others else ""
    return (
        f"host {number} was started with {_clause(first, command)}, host 0 with "
        f"{_clause(first, expected)}{more}; start the same command on every host, "
        "except for config.process_id"
    )


def _clause(name, command):
    value = command.get(name, _ABSENT)
    if len(value) > _LONGEST:
        value = f"{value[: _LONGEST - 3]}..."
    return f"{name}={value}" if name.startswith("--") else f"{name} {value}"


def _digest_of_code():
    """Returns a digest of the package's source files; a host may lack some."""
    folder = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
