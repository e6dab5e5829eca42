"""The installed command `vse_jax`, and `python -m vse_jax`."""

import os
import signal

from vse_jax import huge_pages


def _quit(number, frame):
    """Ends the program during the import, when there is nothing to keep."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def main() -> None:
    """Runs the command line."""
    huge_pages.restart()
    signal.signal(signal.SIGINT, _quit)
    from vse_jax import cli

    cli.run()


if __name__ == "__main__":
    main()
