from configs import common
from vse_jax.stages import plan_stages, stage_of


def test_without_fine_tuning_there_is_one_stage(config):
    config.epochs, config.model.backbone.trainable = 3, False
    (stage,) = plan_stages(config, steps_per_epoch=10)
    assert (stage.start, stage.stop, stage.train_backbone) == (0, 30, False)
    assert stage.learning_rate == config.optimizer.learning_rate
    assert stage.decay_epochs == config.optimizer.decay_epochs


def test_stages_follow_each_other_without_a_gap(config):
    config.epochs, config.model.backbone.trainable = 2, False
    config.fine_tuning = (
        common.fine_tuning_stage(epochs=1, learning_rate=1e-5),
        common.fine_tuning_stage(epochs=3, learning_rate=1e-6, decay_epochs=(2,)),
    )
    stages = plan_stages(config, steps_per_epoch=10)
    assert [(stage.start, stage.stop) for stage in stages] == [
        (0, 20),
        (20, 30),
        (30, 60),
    ]
    assert [stage.train_backbone for stage in stages] == [False, True, True]
    assert stages[2].learning_rate == 1e-6
    assert stages[2].decay_epochs == (2,)
    found = [stage_of(stages, step) for step in (0, 19, 20, 29, 30, 59, 60)]
    numbers = [stages.index(stage) for stage in found]
    assert numbers == [0, 0, 1, 1, 2, 2, 2]
