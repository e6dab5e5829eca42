"""Collects what the report of a run shows."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from vse_jax.checkpoint import Restored
from vse_jax.evaluation import bootstrap
from vse_jax.evaluation.evaluator import Evaluation
from vse_jax.experiment import Experiment
from vse_jax.models.vse import backbone_of, of_encoders
from vse_jax.run_config import FREE_OPTIONS, flatten
from vse_jax.run_report import caption_groups, neighbors, queries, thumbnails
from vse_jax.run_report.curves import Curve, read_curves
from vse_jax.run_report.neighbors import Similarities
from vse_jax.run_report.queries import Query
from vse_jax.run_report.statistics import RecallGroup
from vse_jax.search import exact

HUB_DEPTH = 10  # results of a caption in which an image is counted
_HUBS = 6  # images


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What the report shows of a run.

    Attributes:
      workdir: folder of the run.
      step: step of the checkpoint.
      config: flat options of the run.
      seeds_of: equal for runs that differ only by their seed.
      split: name of the split.
      images, captions: sizes of the split.
      metrics: see `retrieval.recalls`.
      resampled: `[resamples]` by metric, see `bootstrap.resampled_metrics`.
      curves: TensorBoard's scalars by name.
      ranks: ranks of the right answers by direction, counted from 0.
      similarities: of right and hardest wrong answers by direction.
      hub_counts: `[images]`, how often an image is in the first `HUB_DEPTH` results.
      hubs: numbers of the images that are retrieved most often, the first the most.
      by_length, by_rarity: recalls of captions, text to image.
      queries: the best, median and worst queries by direction and kind.
      shown: image IDs, captions and thumbnails that the report shows.
      parameters: number of parameters by part of the model.
    """

    workdir: str
    step: int
    config: Mapping
    seeds_of: str
    split: str
    images: int
    captions: int
    metrics: Mapping[str, float]
    resampled: Mapping[str, np.ndarray]
    curves: Mapping[str, Curve]
    ranks: Mapping[str, np.ndarray]
    similarities: Mapping[str, Similarities]
    hub_counts: np.ndarray
    hubs: Sequence[int]
    by_length: Sequence[RecallGroup]
    by_rarity: Sequence[RecallGroup]
    queries: Mapping[str, Mapping[str, Sequence[Query]]]
    shown: "Shown"
    parameters: Mapping[str, int]

    @functools.cached_property
    def intervals(self) -> dict[str, list[float]]:
        """Bootstrap interval of each metric, `[low, high]`."""
        drawn = self.resampled.items()
        return {name: bootstrap.interval(values) for name, values in drawn}


@dataclasses.dataclass(frozen=True)
class Shown:
    """Images and captions that a report shows, by their numbers in the split.

    Attributes:
      captions: captions.
      image_ids: IDs of images.
      captions_of_images: a caption of each image that has one.
      thumbnails: `data:` URLs of images; {} without photos.
    """

    captions: Mapping[int, str]
    image_ids: Mapping[int, str]
    captions_of_images: Mapping[int, str]
    thumbnails: Mapping[int, str]


def collect(
    experiment: Experiment, evaluation: Evaluation, workdir: str, restored: Restored
) -> RunFacts:
    """Collects what the report shows of a run.

    Args:
      experiment: the run's dataset and vocabulary.
      evaluation: evaluation of one of its splits.
      workdir: folder of the run.
      restored: checkpoint that was evaluated.
    """
    index, embeddings = evaluation.index, evaluation.embeddings
    kind = experiment.config.loss.similarity
    both = {way.name: way for way in neighbors.directions(evaluation)}
    compared = {
        name: neighbors.similarities(embeddings, way, kind)
        for name, way in both.items()
    }
    chosen = {
        name: queries.choose(embeddings, way, compared[name], kind)
        for name, way in both.items()
    }
    retrieved = exact.search(
        embeddings.captions,
        embeddings.images,
        HUB_DEPTH,
        similarity=kind,
        content="images",
    ).rows
    hub_counts = np.bincount(retrieved.ravel(), minlength=index.image_count)
    hubs = np.argsort(-hub_counts, kind="stable")[:_HUBS].tolist()
    ranks = {name: way.ranks for name, way in both.items()}
    return RunFacts(
        workdir=workdir,
        step=restored.step,
        config=flatten(experiment.config),
        seeds_of=_seeds_of(experiment),
        split=evaluation.split,
        images=index.image_count,
        captions=len(index.captions),
        metrics=evaluation.metrics,
        resampled=bootstrap.resampled_metrics(
            evaluation.ranks, index.image_id, index.caption_image_id
        ),
        curves=read_curves(workdir),
        ranks=ranks,
        similarities=compared,
        hub_counts=hub_counts,
        hubs=hubs,
        by_length=caption_groups.by_length(index, ranks["t2i"]),
        by_rarity=caption_groups.by_rarity(experiment, index, ranks["t2i"]),
        queries=chosen,
        shown=_shown(experiment, evaluation, chosen, hubs),
        parameters=_parameters(restored.variables["params"]),
    )


def _seeds_of(experiment):
    """Describes all of a run but its seed: the options and the dataset."""
    free = {*FREE_OPTIONS, "seed"}
    options = flatten(experiment.config)
    kept = {name: str(value) for name, value in options.items() if name not in free}
    return json.dumps([experiment.identity.digest, kept], sort_keys=True)


def _shown(experiment, evaluation, chosen, hubs):
    index = evaluation.index
    numbers = queries.shown(chosen)
    images = numbers["images"] | set(hubs)
    first = index.caption_offset
    return Shown(
        captions={number: index.captions[number] for number in numbers["captions"]},
        image_ids={number: index.image_id_of(number) for number in images},
        captions_of_images={
            number: index.captions[first[number]]
            for number in images
            if first[number] < first[number + 1]
        },
        thumbnails=thumbnails.read(experiment.builder, evaluation.split, images),
    )


def _parameters(params: dict) -> dict[str, int]:
    """Counts the parameters of the encoders and of the backbone."""
    encoders = of_encoders(params)
    backbone = _size(backbone_of(params))
    counts = {
        "image encoder": _size(encoders["image"]) - backbone,
        "backbone": backbone,
        "text encoder": _size(encoders["text"]),
    }
    return {name: count for name, count in counts.items() if count}


def _size(tree):
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))
