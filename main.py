"""Image-text retrieval: trains and evaluates visual-semantic embeddings.

python main.py --config configs/quickstart.py
python main.py --config configs/quickstart.py --mode=eval
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly during the import

from vse_jax import cli  # noqa: E402

if __name__ == "__main__":
    cli.run()
