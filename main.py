"""Image-text retrieval: trains and evaluates visual-semantic embeddings.

python main.py --config configs/quickstart.py
python main.py --config configs/quickstart.py --mode=eval
"""

import os
import signal


def _quit(number, frame):
    """Ends the program during the import, when there is nothing to keep."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


signal.signal(signal.SIGINT, _quit)

from vse_jax import cli  # noqa: E402

if __name__ == "__main__":
    cli.run()
