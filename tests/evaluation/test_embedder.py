import types

import jax
import numpy as np
import pytest

from vse_jax import parallel
from vse_jax.errors import TrainingError
from vse_jax.evaluation.embedder import Embedder


def test_lack_of_memory_for_an_evaluation_is_not_blamed_on_the_training_batch(
    config, monkeypatch
):
    """A TPU's compiler says so before the first step, among the training's programs."""

    def exhaust(*shapes):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of HBM")

    model = types.SimpleNamespace(apply=None)
    experiment = types.SimpleNamespace(config=config, create_model=lambda train: model)
    embedder = Embedder(experiment)
    size, host_rows = config.evaluation_batch_size, np.zeros(8, np.int32)
    captions = {"tokens": np.zeros((8, 16), np.int32), "caption_index": host_rows}
    images = {"feature": np.zeros((8, 4), np.float32), "image_index": host_rows}
    monkeypatch.setattr(embedder, "_caption_batches", lambda split: iter([captions]))
    monkeypatch.setattr(embedder, "_image_batches", lambda split: (b for b in [images]))
    monkeypatch.setattr(parallel.Mapped, "compile", exhaust)
    names = []
    for program in embedder.programs({}, "dev"):
        names.append(program.name)
        with (
            parallel.reporting_memory(config.batch_size, "batch_size"),
            pytest.raises(TrainingError) as error,
        ):
            program.compile()
        assert f"evaluation_batch_size={size} on 8 devices" in str(error.value)
    assert names == ["embedding of images", "embedding of 16 tokens"]
