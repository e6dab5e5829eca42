"""The folds that an evaluation may have."""

from types import SimpleNamespace

import numpy as np
import pytest

from vse_jax.errors import InputError
from vse_jax.evaluation.evaluator import check_folds


def check(folds, caption_counts):
    index = SimpleNamespace(
        image_count=len(caption_counts), caption_counts=np.array(caption_counts)
    )
    check_folds(folds, "test", index)


def test_every_fold_has_images_and_captions():
    check(2, [5, 0, 0, 1])
    check(0, [5, 0])
    with pytest.raises(InputError, match="fold 1 of the split 'test' have no captions"):
        check(2, [5, 5, 0, 0])
    with pytest.raises(InputError, match="the split 'test' has 2 images"):
        check(3, [5, 5])
