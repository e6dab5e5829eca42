"""One whole training step with MiniLM against the same model in PyTorch.

    pip install torch transformers
    python -m benchmarks.minilm_step [--tiny]

RVSE++'s image encoder on Flickr8k's size (128 images of 16 regions of 256 dimensions,
embeddings of 512) and a BERT of MiniLM's size (6 layers of 384 dimensions), a linear
layer and GPO. The PyTorch side has `transformers.BertModel`. All parameters are
trained, on both sides without dropout. Captions are as long as Flickr8k's, of about 14
word pieces. PyTorch pads a batch to its longest caption, as VSE-infinity does, and JAX
to the next of `config.data.token_lengths`.

Each side is a process of its own. They take turns. A table of seconds is printed, and
how many times faster the median step of JAX is, in seconds and in processor time.
"""

import os

import numpy as np

from benchmarks import sides
from benchmarks.rvse_sizes import Sizes

SIDES = ("JAX", "PyTorch")
BERT = {"layers": 6, "dim": 384, "heads": 12, "mlp_dim": 1536, "positions": 512}
TINY_BERT = {"layers": 2, "dim": 16, "heads": 2, "mlp_dim": 24, "positions": 64}
OF_WORDS = {"activation": "gelu", "epsilon": 1e-12}
MODEL = Sizes(region_dim=256, embed_dim=512, vocabulary_size=30_522)
TINY_MODEL = Sizes(region_dim=16, embed_dim=8, vocabulary_size=50)
REGIONS = 16
# A gamma distribution with the mean and the deviation of Flickr8k's word pieces.
LENGTHS_SHAPE, LENGTHS_SCALE = 11.0, 1.3


def random_batch(sizes: Sizes, batch_size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    lengths = generator.gamma(LENGTHS_SHAPE, LENGTHS_SCALE, batch_size).round()
    token_count = np.clip(lengths, 5, 64).astype(np.int32)
    shape = (batch_size, token_count.max())
    tokens = generator.integers(4, sizes.vocabulary_size, shape, np.int32)
    tokens[np.arange(shape[1]) >= token_count[:, None]] = 0
    regions = generator.normal(size=(batch_size, REGIONS, sizes.region_dim))
    return {
        "tokens": tokens,
        "token_count": token_count,
        "image_id": np.arange(batch_size, dtype=np.int32),
        "regions": regions.astype(np.float16),
        "region_count": np.full(batch_size, REGIONS, np.int32),
    }


def jax_side(sizes: Sizes, bert: dict, batch: dict[str, np.ndarray]):
    from benchmarks import jax_step
    from configs import f8k_rvse
    from vse_jax.data.text.encoded_captions import pad_to_length

    config = f8k_rvse.get_config()
    config.model.embed_dim, config.model.text_encoder = sizes.embed_dim, "bert"
    config.model.text_tower.update(bert | OF_WORDS)
    longest = batch["tokens"].shape[1]
    tokens = pad_to_length(batch["tokens"], config.data.token_lengths, longest)
    batch = batch | {"tokens": tokens}
    return jax_step.make_step(config, sizes.vocabulary_size, batch)


def pytorch_step(sizes: Sizes, bert: dict, batch: dict[str, np.ndarray]):
    import torch
    import transformers

    from benchmarks import pytorch_rvse

    torch.set_num_threads(os.cpu_count())
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    config = transformers.BertConfig(
        vocab_size=sizes.vocabulary_size,
        num_hidden_layers=bert["layers"],
        hidden_size=bert["dim"],
        num_attention_heads=bert["heads"],
        intermediate_size=bert["mlp_dim"],
        max_position_embeddings=bert["positions"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )

    class TextEncoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.linear = torch.nn.Linear(bert["dim"], sizes.embed_dim)
            self.gpool = pytorch_rvse.GeneralizedPooling(sizes)

        def forward(self, tokens, counts):
            states = self.bert(tokens, (tokens != 0).float())[0]
            pooled = self.gpool(self.linear(states), counts)
            return pytorch_rvse.l2_normalize(pooled)

    model = pytorch_rvse.RVSE(sizes)
    model.txt = TextEncoder()
    step = pytorch_rvse.make_train_step(sizes, model=model)
    return lambda: step(batch)


def make_step(options):
    sizes, bert = (TINY_MODEL, TINY_BERT) if options.tiny else (MODEL, BERT)
    make = {"JAX": jax_side, "PyTorch": pytorch_step}[options.side]
    return make(sizes, bert, random_batch(sizes, 8 if options.tiny else 128))


def columns(name, times):
    own, reference = times[name], times["PyTorch"]
    return {
        "CPU s": own.processor,
        "times PyTorch": reference.median / own.median,
        "processor times": reference.processor / own.processor,
    }


def main():
    description = __doc__.splitlines()[0]
    sides.compare_steps(
        "benchmarks.minilm_step", description, make_step, SIDES, columns
    )


if __name__ == "__main__":
    main()
