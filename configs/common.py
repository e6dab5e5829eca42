"""Every option with its unit and its default: those of RVSE++ in its paper.

An experiment's file calls `get_config()` here and changes what differs. Any value can
be overridden on the command line, such as `--config.batch_size=64`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults; `data.root` is left for the experiment or the user."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of parameters, order of images, choice of captions, augmentation
    config.dtype = "float32"  # of the encoders' arithmetic: float32 or bfloat16
    config.distributed = False  # True connects the hosts that JAX detects, as of a pod
    # For hosts that JAX does not detect, on each of them; these imply `distributed`.
    config.coordinator = ""  # host:port of process 0, the same on all hosts
    config.num_processes = 0  # number of processes; 0 without a coordinator
    config.process_id = -1  # of this process, from 0; -1 without a coordinator
    config.platform = ""  # cpu, gpu or tpu: refuse to run elsewhere; "" takes the best

    config.batch_size = 128  # pairs, over all devices and hosts
    config.epochs = 25  # of as many pairs as there are training captions
    config.evaluation_batch_size = 256  # images or captions, over all devices and hosts

    config.data = data = ml_collections.ConfigDict()
    # region_features, karpathy_images, image_folder, coco_captions or shapes
    data.builder = "region_features"
    data.root = ""  # folder of the source files
    data.annotations = ""  # file that lists the photos; "" takes the one in the root
    data.strict = False  # True refuses absent and invalid photos; else skips them
    data.allowed_missing = 0.05  # share of a split's photos that may be skipped
    data.maximum_pixels = 100_000_000  # of a photo, width x height; larger are invalid
    data.data_dir = "~/tensorflow_datasets"  # where prepared data goes; may be gs://
    data.name = ""  # of the prepared data; "" names it after the root or the counts
    data.scene_counts = (6000, 500, 500)  # train, dev, test scenes to draw; shapes only
    data.region_dim = 2048  # expected dimensions of a region's feature; 0 takes any
    # Splits captions into words: nltk (NLTK's rules) or nltk_sentences (into sentences
    # first, as VSE++ does). Both split scripts without spaces by ICU's dictionaries.
    data.tokenizer = "nltk"
    data.vocabulary = "dataset"  # dataset: refuse a checkpoint with another; checkpoint
    data.minimum_word_count = 4  # of a word in training captions, or it is <unk>
    data.token_lengths = (16, 24, 32, 48, 64)  # that batches of captions are padded to
    # While training: drop regions and words; of photos, random-resized crop and flip.
    data.augment = True
    data.image_size = 0  # pixels, height and width of photos; 0: stored in one size
    # Pixels, shorter side before a crop in evaluation; 0: image_size * 256 / 224.
    data.resize = 0
    data.crops = 1  # of a photo in evaluation: 1 (the centre) or 10 (corners, mirrored)
    data.folds = 0  # average an evaluation over so many parts too; 5: COCO's "1K"
    data.train_split = "train"  # or a sum, such as train+restval of COCO
    data.validation_split = "dev"
    data.test_split = "test"

    config.model = model = ml_collections.ConfigDict()
    model.image_encoder = "region_residual"  # region_parallel, global
    model.backbone = backbone = ml_collections.ConfigDict()  # of datasets with photos
    backbone.name = ""  # one of `vse_jax.models.backbones.BACKBONES`
    backbone.weights = ""  # .pth or .safetensors file, or the package that has it
    # trained: normalize by the batch's statistics in training; frozen: always by those
    # of the weights. A backbone that is frozen as a whole (see optimizer.groups) always
    # uses those of its weights. VSE++'s published code differs: its frozen CNN
    # normalizes by the batch's statistics in training, and updates the running ones.
    backbone.batch_norm = "trained"
    model.text_encoder = "bigru_gpo"  # or gru
    model.pooling = "gpo"  # of regions and of words: gpo, mean or max
    model.embed_dim = 1024
    model.word_dim = 300
    model.normalize_image = True  # False for VSE0
    model.absolute = False  # True for Order-embeddings

    config.loss = loss = ml_collections.ConfigDict()
    loss.mining = "selective"  # all, mean, hardest, semi_hard, selective
    loss.margin = 0.2  # in units of similarity
    loss.epsilon = 0.01  # in units of similarity; `selective` only
    loss.similarity = "cosine"  # or order
    loss.reduction = "mean"  # of anchors and directions; sum as in VSE++
    loss.warmup_mining = ""  # used instead of `mining` during the warm-up
    loss.warmup_epochs = 0

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # or adam
    optimizer.learning_rate = 5e-4
    # After each of these epochs the learning rate is multiplied by `decay_factor`; 0 is
    # before the first step. Equal ones all count.
    optimizer.decay_epochs = (15,)
    optimizer.decay_factor = 0.1
    optimizer.weight_decay = 0.01  # decoupled, of every parameter; adamw only
    optimizer.gradient_clip = 2.0  # global norm; 0 for none
    # Parameters with options of their own: a tuple of `parameter_group`. The first one
    # that matches a parameter applies. The stages of `fine_tuning` have their own.
    optimizer.groups = ()

    # What comes after `epochs` of the above: a tuple of `fine_tuning_stage`.
    config.fine_tuning = ()

    config.extract = extract = ml_collections.ConfigDict()  # see --mode=extract
    extract.regions = "grid"  # the backbone's; or pooled: one feature an image
    extract.pool = 0  # rows and columns to average the grid to; 0 keeps it
    extract.pca_dim = 0  # dimensions to reduce to, fitted on the train split; 0 keeps
    extract.numpy_layout = ""  # folder for the PyTorch repositories' files too
    extract.shard_megabytes = 128.0  # of a file; a killed run repeats one of them

    config.log_every_steps = 50
    config.checkpoint_every_steps = 500  # beside those after every evaluation
    config.evaluate_every_epochs = 1
    config.stuck_steps = 200  # warn when all similarities are equal for so many steps
    config.profile_at_step = 0  # profile five steps from there; 0 for none
    config.compilation_cache = ""  # folder; "" puts it beside the workdir
    return config


def fine_tuning_stage(
    *,
    epochs: int,
    learning_rate: float,
    decay_epochs: tuple[float, ...] = (),
    groups: tuple[ml_collections.ConfigDict, ...] = (),
) -> ml_collections.ConfigDict:
    """Returns a stage that starts from the best checkpoint before it.

    Args:
      epochs: of as many pairs as there are training captions.
      learning_rate: at its beginning.
      decay_epochs: of this stage; the learning rate is multiplied by
        `optimizer.decay_factor` after each of them.
      groups: parameter groups of this stage, used instead of `optimizer.groups`.
    """
    return ml_collections.ConfigDict(
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "decay_epochs": decay_epochs,
            "groups": groups,
        }
    )


def parameter_group(
    pattern: str,
    *,
    learning_rate: float = 1.0,
    weight_decay: float | None = None,
    frozen: bool = False,
) -> ml_collections.ConfigDict:
    """Returns parameters that are trained with options of their own, or not at all.

    Batch normalization updates its running statistics even where its parameters are
    frozen, except in a backbone that is frozen as a whole.

    Args:
      pattern: regular expression that matches the whole path of a parameter, such as
        `image/backbone/.*` or `.*/bias`. It must match at least one.
      learning_rate: factor of the learning rate.
      weight_decay: used instead of `optimizer.weight_decay`, which None stands for.
      frozen: keep these parameters as they are.
    """
    # A placeholder lets the command line replace None.
    decay = ml_collections.config_dict.placeholder(float)
    decay.set(weight_decay)
    return ml_collections.ConfigDict(
        {
            "pattern": pattern,
            "learning_rate": float(learning_rate),
            "weight_decay": decay,
            "frozen": frozen,
        }
    )
