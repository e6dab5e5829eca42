"""PyTorch models with the parameter names of vse_infty, and their checkpoint files.

An encoder takes a list of items, and pools and embeds each one without padding.
"""

import argparse
import pathlib

import numpy as np
import torch
from torch import nn

from tests.models.backbones import hugging_face, pytorch_backbones
from vse_jax.models import backbones

BLOCKS = (1, 2, 1, 1)
# Values of --backbone_source, our backbones, and their options.
SOURCES = {
    "detector": ("bottom_up_resnet101", {"caffe": True, "bottom_up": True}),
    "wsl": ("resnext101_32x8d", {"groups": 32, "group_width": 8}),
    "imagenet_res152": ("caffe_resnet152", {"caffe": True}),
}
# Those of its command line that matter to an import, and some that do not.
OPTIONS = {
    "data_name": "coco_precomp",
    "embed_size": 1024,
    "max_violation": True,
    "img_dim": 2048,
    "no_imgnorm": False,
    "no_txtnorm": False,
    "precomp_enc_type": "basic",
    "backbone_path": "",
    "backbone_source": "detector",
    "input_scale_factor": 1,
    "vse_mean_warmup_epochs": 1,
    "margin": 0.2,
    "drop": True,
    "vocab_size": 30522,
}


def few_blocks(source):
    """Returns the name of a source's backbone, and its `Spec` with few blocks."""
    name, options = SOURCES[source]
    return name, backbones._resnet(*BLOCKS, **options)


def network_of(source):
    """Returns the CNN of a source, with few blocks and random parameters."""
    _, options = SOURCES[source]
    network = pytorch_backbones.ResNet(*BLOCKS, **options)
    pytorch_backbones.randomize(network)
    return network.eval()


class Pooling(nn.Module):
    """Generalized pooling of `[items, dim]`."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(32, 1, bias=False)

    def forward(self, items):
        frequency = 10_000 ** (-torch.arange(0, 32, 2) / 32)
        angle = torch.arange(len(items))[:, None] * frequency
        positions = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
        states = self.gru(positions[None])[0][0].unflatten(1, (2, 32)).mean(1)
        weights = (self.linear(states) / 0.1).softmax(0)
        return (items.sort(dim=0, descending=True).values * weights).sum(0)


class Mlp(nn.Module):
    """Two layers; the last normalization is not applied."""

    def __init__(self, dim, embed):
        super().__init__()
        hidden = embed // 2
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, embed)])
        self.bns = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(embed)])
        for name, array in self.bns[0].named_buffers():
            if name != "num_batches_tracked":
                nn.init.uniform_(array, 0.5, 1.5)

    def forward(self, regions):
        return self.layers[1](torch.relu(self.bns[0](self.layers[0](regions))))


class Regions(nn.Module):
    """The image encoder; has an MLP unless a CNN is before it."""

    def __init__(self, dim, embed, *, mlp=True):
        super().__init__()
        self.fc = nn.Linear(dim, embed)
        if mlp:
            self.mlp = Mlp(dim, embed)
        self.gpool = Pooling()

    def forward(self, images):
        rows = []
        for regions in images:
            features = self.fc(regions)
            if hasattr(self, "mlp"):
                features = features + self.mlp(regions)
            rows.append(self.gpool(features))
        return _unit(rows)


class Extractor(nn.Module):
    """A CNN and, once more, its two parts without the classifier."""

    def __init__(self, source):
        super().__init__()
        self.resnet = net = network_of(source)
        self.base = nn.Sequential(
            *(net.conv1, net.bn1, nn.ReLU(), net.maxpool),
            *(net.layer1, net.layer2, net.layer3),
        )
        self.top = nn.Sequential(net.layer4)


class Grid(nn.Module):
    """The image encoder after a CNN; takes photos `[height, width, 3]`."""

    def __init__(self, source, embed):
        super().__init__()
        self.backbone = Extractor(source)
        self.image_encoder = Regions(2048, embed, mlp=False)

    def forward(self, photos):
        net = self.backbone.resnet
        regions = pytorch_backbones.run(net, np.stack(photos), pooled=False)
        return self.image_encoder(torch.from_numpy(regions))


class BertCaptions(nn.Module):
    """The text encoder with a BERT of Hugging Face."""

    def __init__(self, words, embed):
        super().__init__()
        library = hugging_face.transformers
        self.bert = library.BertModel(
            library.BertConfig(
                vocab_size=words,
                hidden_size=128,  # 64 per attention head, as in every published BERT
                num_attention_heads=2,
                num_hidden_layers=2,
                intermediate_size=48,
                max_position_embeddings=32,
            )
        )
        self.linear = nn.Linear(128, embed)
        self.gpool = Pooling()

    def forward(self, captions):
        states = [self.bert(torch.tensor([tokens]))[0][0] for tokens in captions]
        return _unit([self.gpool(self.linear(one)) for one in states])


class GruCaptions(nn.Module):
    """The text encoder with a GRU in both directions."""

    def __init__(self, words, embed):
        super().__init__()
        self.embed = nn.Embedding(words, 6)
        self.rnn = nn.GRU(6, embed, batch_first=True, bidirectional=True)
        self.gpool = Pooling()

    def forward(self, captions):
        rows = []
        for tokens in captions:
            states = self.rnn(self.embed(torch.tensor([tokens])))[0][0]
            rows.append(self.gpool(states.unflatten(1, (2, -1)).mean(1)))
        return _unit(rows)


def _unit(rows):
    return nn.functional.normalize(torch.stack(rows), dim=1)


def save(path: pathlib.Path, images, captions, *, parallel, **options):
    """Saves a checkpoint as vse_infty does, in the format of its version of PyTorch.

    Args:
      path: of the file.
      images: image encoder.
      captions: text encoder.
      parallel: whether the encoders are wrapped for several GPUs, as those after a CNN
        are.
      **options: of the command line.
    """
    if parallel:
        images, captions = nn.DataParallel(images), nn.DataParallel(captions)
    content = {
        "epoch": 3,
        "model": [images.state_dict(), captions.state_dict()],
        "best_rsum": 100.0,
        "opt": argparse.Namespace(**(OPTIONS | options)),
        "Eiters": 9,
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
