"""A whole CLIP, fine-tuned on COCO with InfoNCE.

    python main.py --mode=import --config configs/coco_clip_finetune.py \
        --config.data.root=COCO --import_file=FOLDER --workdir=runs/clip
    python main.py --mode=eval --workdir=runs/clip
    python main.py --config configs/coco_clip_finetune.py --config.data.root=COCO \
        --config.start_from=runs/clip

FOLDER is a CLIP in Hugging Face's layout, such as `clip-vit-base-patch32`. The second
command gives its zero-shot recalls. A SigLIP takes `--config.loss.name=sigmoid` in the
third command. COCO contains Karpathy's `dataset_coco.json` with the photos in
`train2014` and `val2014`.

`--config.loss.name=triplet` trains with SelHN instead. This configuration has not been
trained here, for lack of CLIP's weights.
"""

from configs import common


def get_config():
    """Returns the configuration."""
    config = common.get_config()
    config.epochs = 5
    config.data.builder = "karpathy_images"
    config.data.train_split = "train+restval"
    config.data.validation_split = "val"
    config.data.folds = 5  # each has 1,000 images
    config.loss.name = "infonce"
    config.optimizer.learning_rate = 1e-5
    config.optimizer.weight_decay = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.gradient_clip = 1.0
    return config
