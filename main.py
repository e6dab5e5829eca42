"""Image-text retrieval: trains and evaluates visual-semantic embeddings.

python main.py --config configs/quickstart.py
python main.py --config configs/quickstart.py --mode=eval
"""

from vse_jax.__main__ import main

if __name__ == "__main__":
    main()
