"""RVSE++ and its training step, written plainly in PyTorch.

This is what the JAX step is timed against: the steps of the papers' code in the papers'
order, with `nn.GRU` on packed sequences, `torch.sort` and `torch.optim.AdamW`, nothing
made faster and nothing made slower. Parameters bear the names that published
checkpoints use behind the prefixes `img.` and `txt.`.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.rvse_sizes import Sizes

PADDING_VALUE = -10_000.0  # sorts behind every feature; softmax of it is exactly zero


def l2_normalize(vectors: torch.Tensor) -> torch.Tensor:
    """Divides `[..., dim]` by the Euclidean norm of its last axis."""
    return vectors / (vectors.pow(2).sum(-1, keepdim=True).sqrt() + 1e-8)


def sinusoidal_positions(length: int, dim: int) -> torch.Tensor:
    """Returns `[length, dim]`: sines at even places, cosines at odd ones."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    encodings = torch.empty(length, dim)
    encodings[:, 0::2] = torch.sin(position * frequency)
    encodings[:, 1::2] = torch.cos(position * frequency)
    return encodings


def run_bidirectional(
    gru: nn.GRU, inputs: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Runs `gru` over the `counts` first of `[batch, time, dim]`.

    Returns `[batch, counts.max(), hidden]`, the mean of both directions, zero beyond
    each sequence's end.
    """
    packed = pack_padded_sequence(
        inputs, counts.cpu(), batch_first=True, enforce_sorted=False
    )
    outputs, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)
    forward, backward = outputs.chunk(2, dim=-1)
    return (forward + backward) / 2


class GeneralizedPooling(nn.Module):
    """GPO: a learned weighted sum of each dimension's values, sorted descending."""

    temperature = 0.1

    def __init__(self, sizes: Sizes):
        """Makes the GRU over positions and the layer that scores each rank."""
        super().__init__()
        self.position_dim = sizes.position_dim
        self.gru = nn.GRU(
            sizes.position_dim, sizes.pooling_dim, batch_first=True, bidirectional=True
        )
        self.linear = nn.Linear(sizes.pooling_dim, 1, bias=False)

    def rank_weights(self, counts: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Returns `[batch, items, 1]` weights that sum to one over the items."""
        batch, items, _ = present.shape
        positions = sinusoidal_positions(items, self.position_dim)
        positions = positions.expand(batch, -1, -1).masked_fill(~present, 0.0)
        scores = self.linear(run_bidirectional(self.gru, positions, counts))
        scores = scores.masked_fill(~present, PADDING_VALUE)
        return torch.softmax(scores / self.temperature, dim=1)

    def forward(self, features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Pools the `counts` first of `[batch, items, dim]` into `[batch, dim]`."""
        items = int(counts.max())
        present = (torch.arange(items) < counts.unsqueeze(1)).unsqueeze(-1)
        weights = self.rank_weights(counts, present)
        features = features[:, :items].masked_fill(~present, PADDING_VALUE)
        descending = features.sort(dim=1, descending=True)[0]
        return (descending.masked_fill(~present, 0.0) * weights).sum(1)


class MultilayerPerceptron(nn.Module):
    """Dense, BatchNorm, ReLU, dense, on every region alone."""

    def __init__(self, dim: int):
        """Makes the layers from `dim` to `dim` through half as many."""
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(dim, dim // 2), nn.Linear(dim // 2, dim)]
        )
        # Published checkpoints hold a second norm that the forward pass never uses.
        self.bns = nn.ModuleList([nn.BatchNorm1d(dim // 2), nn.BatchNorm1d(dim)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `[batch, regions, dim]`; statistics count padding regions too."""
        batch, regions, dim = features.shape
        hidden = self.layers[0](features.reshape(batch * regions, dim))
        outputs = self.layers[1](torch.relu(self.bns[0](hidden)))
        return outputs.view(batch, regions, dim)


class ImageEncoder(nn.Module):
    """Regions to one embedding: dense, residual perceptron, GPO, L2 norm."""

    def __init__(self, sizes: Sizes):
        """Makes the layers, the dense one drawn from Xavier's uniform distribution."""
        super().__init__()
        self.fc = nn.Linear(sizes.region_dim, sizes.embed_dim)
        self.mlp = MultilayerPerceptron(sizes.embed_dim)
        self.gpool = GeneralizedPooling(sizes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, regions: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Embeds `[batch, regions, region_dim]` as `[batch, embed_dim]`."""
        features = self.fc(regions)
        features = features + self.mlp(features)
        return l2_normalize(self.gpool(features, counts))


class TextEncoder(nn.Module):
    """Word ids to one embedding: word vectors, bidirectional GRU, GPO, L2 norm."""

    def __init__(self, sizes: Sizes):
        """Makes the layers, the word vectors drawn from +-0.1."""
        super().__init__()
        self.embed = nn.Embedding(sizes.vocabulary_size, sizes.word_dim)
        self.rnn = nn.GRU(
            sizes.word_dim, sizes.embed_dim, batch_first=True, bidirectional=True
        )
        self.gpool = GeneralizedPooling(sizes)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, tokens: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Embeds `[batch, time]` word ids as `[batch, embed_dim]`."""
        states = run_bidirectional(self.rnn, self.embed(tokens), counts)
        return l2_normalize(self.gpool(states, counts))


class RVSE(nn.Module):
    """Both encoders, under the prefixes of the parameters' names."""

    def __init__(self, sizes: Sizes):
        """Makes both encoders."""
        super().__init__()
        self.img = ImageEncoder(sizes)
        self.txt = TextEncoder(sizes)

    def forward(
        self, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images' and the captions' embeddings, `[batch, embed_dim]`."""
        return (
            self.img(batch["regions"], batch["region_count"]),
            self.txt(batch["tokens"], batch["token_count"]),
        )


def selective_loss(
    images: torch.Tensor,
    captions: torch.Tensor,
    margin: float = 0.2,
    epsilon: float = 0.01,
) -> torch.Tensor:
    """SelHN over `[batch, dim]` embeddings: mean of the anchors of both directions."""
    scores = images @ captions.t()
    return (
        _one_direction(scores, margin, epsilon)
        + _one_direction(scores.t(), margin, epsilon)
    ) / 2


def _one_direction(scores: torch.Tensor, margin: float, epsilon: float) -> torch.Tensor:
    own = torch.eye(len(scores), dtype=torch.bool)
    positive = scores.diagonal().unsqueeze(1)
    cost = (margin + scores - positive).clamp(min=0).masked_fill(own, 0.0)
    with torch.no_grad():
        hardest_negative = scores.masked_fill(own, -math.inf).max(1)[0]
        mine_mean = (positive.squeeze(1) - hardest_negative).abs() < epsilon
    mean = cost.sum(1) / (len(scores) - 1)
    return torch.where(mine_mean, mean, cost.max(1)[0]).mean()


def batch_to_torch(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Moves the arrays that the model reads to the device; counts and ids are int64."""
    device = torch.get_default_device()
    regions = torch.from_numpy(batch["regions"]).to(device).float()
    integers = ("region_count", "tokens", "token_count")
    return {"regions": regions} | {
        name: torch.from_numpy(batch[name]).to(device).long() for name in integers
    }


def make_train_step(
    sizes: Sizes,
    *,
    model: RVSE | None = None,
    margin: float = 0.2,
    epsilon: float = 0.01,
    autocast: bool = False,
) -> Callable[[Mapping[str, np.ndarray]], float]:
    """Returns a function that runs one whole training step and gives its loss.

    Its batch is that of the input pipeline: `regions [batch, regions, dim]`,
    `region_count [batch]`, `tokens [batch, time]`, `token_count [batch]`. Without
    `model` one is made at random. The caller chooses the device by
    `torch.set_default_device`, and the threads by `torch.set_num_threads`. With
    `autocast` the products of the model are in bfloat16.
    """
    model = (model or RVSE(sizes)).train()
    device = torch.get_default_device().type
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)

    def train_step(batch: Mapping[str, np.ndarray]) -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            embeddings = model(batch_to_torch(batch))
        loss = selective_loss(*(e.float() for e in embeddings), margin, epsilon)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        return loss.item()

    return train_step
