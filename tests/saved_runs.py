"""Saves runs of models with random parameters, as a training would."""

import pathlib

import jax
import ml_collections
import numpy as np

from configs import common
from vse_jax import parallel
from vse_jax.checkpoint import Checkpoints
from vse_jax.data.split_index import SplitIndex
from vse_jax.evaluation.embedder import Embedder, Embeddings
from vse_jax.experiment import Experiment, create_experiment
from vse_jax.train_step import TrainState, init_variables

STEP = 7


def of_scenes(data_dir: pathlib.Path, *, scenes: int = 10) -> ml_collections.ConfigDict:
    """Returns a configuration of a tiny model on drawn scenes."""
    config = common.get_config()
    config.data.builder = "shapes"
    config.data.scene_counts = (24, 10, scenes)
    config.data.data_dir = str(data_dir)
    config.data.minimum_word_count = 1
    config.data.token_lengths = (24, 40)
    config.model.backbone.name = "stem"
    config.batch_size, config.evaluation_batch_size = 8, 16
    config.model.update(embed_dim=16, word_dim=8)
    return config


def save(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, step: int = STEP
) -> Experiment:
    """Saves a checkpoint with random parameters; returns its experiment."""
    experiment = create_experiment(config)
    model = experiment.create_model(train=True)
    batch = next(experiment.train_batches(0, 1))
    variables = jax.tree.map(np.asarray, init_variables(model, batch, config.seed))
    state = TrainState(
        step=np.int32(step),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state={},
    )
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, experiment.describe(), pca=experiment.pca_arrays)
    checkpoints.close()
    experiment.keep_backbone(str(workdir), is_new=True)
    return experiment


def evaluated(
    experiment: Experiment, workdir: pathlib.Path, split: str
) -> tuple[SplitIndex, Embeddings]:
    """Embeds a split as `--mode=eval` does."""
    restored = Checkpoints(workdir, read_only=True).restore([STEP])
    variables = parallel.replicate(restored.variables)
    return Embedder(experiment).embed(variables, split)
