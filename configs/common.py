"""All options with their units and defaults, which are those of RVSE++'s paper.

The configuration of an experiment calls `get_config()` and changes some options. Every
option can be overridden on the command line, for example `--config.batch_size=64`.
Every folder and file may be local or `gs://bucket/...`, except `data.local_copy`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the default options; experiments or users set `data.root`."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # seed of parameters, image order, captions and augmentation
    # dtype of the encoders' arithmetic, float32 or bfloat16. "" is that of the run in
    # the workdir; for a new run, it is bfloat16 on TPUs and float32 elsewhere.
    config.dtype = ""
    config.distributed = False  # True connects the hosts that JAX detects, as on a pod
    # The next three connect hosts that JAX does not detect; they imply `distributed`.
    config.coordinator = ""  # host:port of process 0, equal on all hosts
    config.num_processes = 0  # number of processes; 0 without a coordinator
    config.process_id = -1  # index of this process, from 0; -1 without a coordinator
    config.connection_timeout = 120.0  # seconds within which all hosts must start
    # What runs a step on all devices: pmap or shard_map, with equal results.
    config.mapping = "pmap"
    config.platform = ""  # required device: cpu, gpu or tpu; "" uses the best one

    # Run, export or imported model that a new run begins with: its parameters, its
    # vocabulary, its `model` and its way to read photos and captions; "" for none.
    config.start_from = ""

    config.batch_size = 128  # training pairs per step, over all devices and hosts
    # Parts of a batch that are embedded one after the other, which saves memory; or 1.
    # Negatives come from the whole batch. The gradient is that of the whole batch,
    # except that batch normalization takes the statistics of a part over all devices.
    # Divides the pairs of a device.
    config.microbatches = 1
    config.epochs = 25  # an epoch uses as many pairs as there are training captions
    config.evaluation_batch_size = 256  # images or captions, over all devices and hosts

    config.data = data = ml_collections.ConfigDict()
    # Or karpathy_images, image_folder, coco_captions or shapes.
    data.builder = "region_features"
    data.root = ""  # folder of the source files, or of extracted features
    data.annotations = ""  # file that lists the photos; "" finds it in the root
    data.strict = False  # True rejects absent and invalid photos; False skips them
    data.allowed_missing = 0.05  # share of a split's photos that may be skipped, 0 to 1
    data.maximum_pixels = 100_000_000  # width x height of a photo; larger are invalid
    data.data_dir = "~/tensorflow_datasets"  # folder of prepared data
    # Local folder for copies of remote prepared data; "" is ~/.cache/vse_jax.
    data.local_copy = ""
    data.name = ""  # name of the prepared data; "" derives it from the source
    data.scene_counts = (6000, 500, 500)  # scenes in train, dev and test; shapes only
    # Required dimensions of region features; 0 allows any. Features that --mode=extract
    # wrote may always have any.
    data.region_dim = 2048
    data.tokenizer = "nltk"  # or nltk_sentences, which splits sentences first (VSE++)
    # dataset: a checkpoint's vocabulary must be that of the training captions.
    # checkpoint: it may be another.
    data.vocabulary = "dataset"
    data.minimum_word_count = 4  # in training captions; rarer words become <unk>
    # Tokens. Batches are padded to the next of these, captions truncated to the last.
    data.token_lengths = (16, 24, 32, 48, 64)
    data.augment = True  # in training, drop regions and words, or crop and flip photos
    data.drop_regions = 0.2  # probability that a region is dropped, if `augment`
    # Probability that a word is chosen, if `augment`; not where photos are cropped. Of
    # the chosen, half are masked, a tenth are replaced, and the rest are dropped.
    data.drop_words = 0.2
    data.image_size = 0  # height and width in pixels; 0 if stored photos have one size
    data.resize = 0  # shorter side in pixels before a crop; 0: image_size * 256 / 224
    # How a photo becomes square in evaluation: crop (its center), crop_floor (the same,
    # rounded down to whole pixels, as in Hugging Face's processors) or stretch (all).
    # "" is that of the weights of a vision transformer, and crop for other backbones.
    data.fit = ""
    # PIL's bilinear, bicubic or lanczos; or opencv, which is bilinear with a filter of
    # constant width. "" is that of the weights of a vision transformer, and bilinear
    # for other backbones.
    data.interpolation = ""
    data.crops = 1  # crops per photo in evaluation: 1 (center) or 10 (also mirrored)
    data.device_resident = False  # True: training features in the devices' memory
    data.folds = 0  # folds whose mean is also reported; 0 for none, 5 for COCO's 1K
    data.train_split = "train"  # or a sum of splits, such as COCO's train+restval
    data.validation_split = "dev"  # split that selects the best checkpoint
    data.test_split = "test"  # split that --mode=eval evaluates

    config.model = model = ml_collections.ConfigDict()
    # Or region_parallel, region_linear or global.
    model.image_encoder = "region_residual"
    model.backbone = backbone = ml_collections.ConfigDict()  # for datasets of photos
    backbone.name = ""  # a name in `vse_jax.models.backbones.BACKBONES`; "" for none
    # .pth or .safetensors file, a package, or for vision transformers a folder in
    # Hugging Face's layout; "" for random ones.
    backbone.weights = ""
    # trained: use the batch's statistics in training; frozen: use those of the weights.
    # A backbone that is frozen as a whole (see `optimizer.groups`) always uses those of
    # its weights. VSE++'s published code differs: its frozen CNN uses the batch's
    # statistics in training and updates the running statistics.
    backbone.batch_norm = "trained"
    # Sizes of a vision transformer. 0, "" and () are those of the weights; a run stores
    # what it found there.
    backbone.tower = tower = ml_collections.ConfigDict()
    tower.dim = 0  # dimensions of a region
    tower.layers = 0  # number of blocks
    tower.heads = 0  # of each attention
    tower.mlp_dim = 0  # dimensions between the two layers of an MLP
    tower.patch = 0  # height and width of a patch in pixels
    tower.image_size = 0  # height and width of the pretraining's images in pixels
    tower.registers = 0  # register tokens, which are no regions; 0 for none
    tower.activation = ""  # gelu, gelu_pytorch_tanh or quick_gelu
    tower.epsilon = 0.0  # of the layer normalizations
    tower.gated = False  # True: SwiGLU
    tower.mean = ()  # of RGB, for pixels from 0 to 1
    tower.std = ()  # of RGB, for pixels from 0 to 1
    # True smooths the position embeddings where the grid is smaller than that of the
    # pretraining. Towers with registers always do.
    tower.antialias = False
    model.text_encoder = "bigru_gpo"  # or gru; bert, clip_text and siglip_text
    # Pretrained weights of a transformer with its tokenizer: a folder in Hugging Face's
    # layout, a file of weights in it, or a package that ships one. "" for random
    # weights, whose tokens are the words of the training captions.
    model.text_weights = ""
    # Sizes of a transformer. 0 and "" are those of the weights. A run remembers them,
    # with the tokenizer, so it does not need the weights once it has begun.
    model.text_tower = tower = ml_collections.ConfigDict()
    tower.layers = 0
    tower.dim = 0  # dimensions of a token's state
    tower.heads = 0  # attention heads
    tower.mlp_dim = 0  # dimensions between the two layers of an MLP
    tower.positions = 0  # largest number of tokens; longer captions are truncated
    tower.vocabulary_size = 0  # different tokens
    tower.activation = ""  # a name in `vse_jax.models.transformers.activations`
    tower.epsilon = 0.0  # of layer normalization
    tower.padding = 0  # token behind captions; siglip_text reads it
    # Pooling of regions and words: gpo, esa, mean, max, or cls: the class token, of
    # clip_vision and dinov2.
    model.pooling = "gpo"
    # Pooling of words only; "" is `pooling`. A transformer also has cls, the state that
    # summarizes the caption.
    model.text_pooling = ""
    model.embed_dim = 1024  # dimensions of the joint embedding
    model.word_dim = 300  # dimensions of the word embeddings of gru and bigru_gpo
    model.normalize_image = True  # scale image embeddings to unit length; False in VSE0
    model.absolute = False  # use absolute embeddings; True in Order-embeddings
    # Share of the numbers of regions, features and word embeddings (or a transformer's
    # states) that are set to 0 in training; the others are scaled up.
    model.dropout = 0.0
    # The same within BERT: of its embeddings, the attention's weights and the results
    # of its layers. 0.1 is usual.
    model.text_dropout = 0.0

    config.loss = loss = ml_collections.ConfigDict()
    loss.name = "triplet"  # or infonce or sigmoid, which use every negative
    # Factor of similarities in infonce and sigmoid; 0 is 1 / 0.07 and 10, as published.
    loss.scale = 0.0
    loss.bias = -10.0  # added to scaled similarities; sigmoid only
    # True learns scale and bias from these values, as CLIP and SigLIP do; the scale of
    # infonce is at most 100. False keeps them.
    loss.learn_scale = True
    # Adds the triplet loss of the options below to infonce, with this weight.
    loss.triplet_weight = 0.0
    # Views of each image and caption, 1 to 16, in which regions and words are dropped
    # anew. The positive of a view is the least similar of its partner's (ESA's loss).
    loss.views = 1
    loss.mining = "selective"  # negatives: all, mean, hardest, semi_hard or selective
    loss.margin = 0.2  # in units of similarity
    loss.epsilon = 0.01  # in units of similarity; selective mining only
    loss.similarity = "cosine"  # or order
    loss.reduction = "mean"  # over anchors and directions; or sum, as in VSE++
    loss.warmup_mining = ""  # replaces `mining` during the warm-up; "" for no warm-up
    loss.warmup_epochs = 0  # length of the warm-up

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # or adam
    optimizer.learning_rate = 5e-4  # after the warm-up and before any decay
    optimizer.schedule = "steps"  # or cosine: falls to 0 at the end of the stage
    optimizer.warmup_epochs = 0.0  # first epochs, in which the rate rises linearly
    # After each of these epochs the learning rate is multiplied by `decay_factor`. 0 is
    # before the first step. A repeated epoch counts repeatedly. Schedule steps only.
    optimizer.decay_epochs = (15,)
    optimizer.decay_factor = 0.1  # factor of the learning rate at each decay
    # Decoupled, for all parameters but the learned scalars of the loss; adamw only.
    optimizer.weight_decay = 0.01
    optimizer.gradient_clip = 2.0  # maximum global norm of the gradients; 0 for none
    optimizer.sharded = False  # True splits the optimizer's state over the devices
    # The model that is evaluated and saved is the average of the parameters over the
    # steps; each step multiplies the past by this, such as 0.999. 0 for no average.
    optimizer.average_decay = 0.0
    # Parameters with their own options: a tuple of `parameter_group`. The first group
    # that matches a parameter applies. Stages of `fine_tuning` have their own groups.
    optimizer.groups = ()

    # Stages that follow the `epochs` above: a tuple of `fine_tuning_stage`.
    config.fine_tuning = ()

    config.extract = extract = ml_collections.ConfigDict()  # for --mode=extract
    extract.regions = "grid"  # the backbone's grid; or pooled: one feature per image
    extract.pool = 0  # rows and columns to average the grid to; 0 keeps the grid
    extract.pca_dim = 0  # dimensions of a PCA, fitted on the train split; 0 for none
    extract.numpy_layout = ""  # folder for a copy in the PyTorch layout; "" for none
    extract.shard_megabytes = 128.0  # size of a file; a killed run repeats at most one

    # For --mode=encode, search and serve.
    config.gallery = gallery = ml_collections.ConfigDict()
    gallery.dtype = "float16"  # of the stored embeddings; or float32
    gallery.index = ""  # approximate search: ivf or hnsw (faiss-cpu); "" is exact
    gallery.hubness = False  # True corrects scores by a bias of each row, see README
    gallery.bank_size = 30_000  # training queries, at most, that determine the bias

    # For --mode=eval, and for the evaluation at the end of a training.
    config.evaluation = evaluation = ml_collections.ConfigDict()
    # recall; or cxc (Crisscrossed Captions) or eccv (ECCV Caption) in addition, whose
    # ground truth is of COCO's test split (pip install eccv-caption==0.1.0).
    evaluation.suite = "recall"
    evaluation.cxc = ""  # folder of CxC's sts_test.csv, sis_test.csv and sits_test.csv
    # True also reports the recalls with scores corrected for hubness: minus alpha times
    # the mean of the k largest similarities to the items of data.train_split.
    evaluation.hubness = False
    evaluation.hubness_alpha = 0.75  # weight of the correction, at least 0
    evaluation.hubness_k = 128  # similarities that are averaged

    # For --mode=compile, which reads no data: what training would find in the data.
    config.compile = compiled = ml_collections.ConfigDict()
    compiled.programs = ("train", "images", "captions")  # training and embedding steps
    compiled.vocabulary_size = 11_755  # different tokens; COCO's with Karpathy's splits
    compiled.regions = 36  # regions per image, of datasets of region features
    compiled.dim = 2048  # dimensions of a region or feature if data.region_dim is 0
    # Training images: they limit the batch, and the features of data.device_resident.
    compiled.images = 113_287
    compiled.pairs_per_epoch = 566_435  # training captions

    config.log_every_steps = 50  # steps between logged metrics
    config.checkpoint_every_steps = 500  # in addition to one after every evaluation
    config.evaluate_every_epochs = 1  # epochs between evaluations on validation_split
    config.stuck_steps = 200  # steps with equal similarities before a warning
    config.profile_at_step = 0  # first of five steps to profile; 0 for none
    # Folder; "" is JAX_COMPILATION_CACHE_DIR, or .compilation_cache beside the workdir.
    config.compilation_cache = ""
    return config


def fine_tuning_stage(
    *,
    epochs: int,
    learning_rate: float,
    decay_epochs: tuple[float, ...] = (),
    groups: tuple[ml_collections.ConfigDict, ...] = (),
    schedule: str = "steps",
    warmup_epochs: float = 0.0,
) -> ml_collections.ConfigDict:
    """Returns a training stage that starts from the best checkpoint before it.

    Args:
      epochs: length of the stage in epochs.
      learning_rate: learning rate of the stage, after its warm-up.
      decay_epochs: epochs of this stage after which the learning rate is multiplied by
        `optimizer.decay_factor`.
      groups: parameter groups of this stage, instead of `optimizer.groups`.
      schedule: steps or cosine, instead of `optimizer.schedule`.
      warmup_epochs: first epochs of this stage, in which the learning rate rises
        linearly.
    """
    return ml_collections.ConfigDict(
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "decay_epochs": decay_epochs,
            "groups": groups,
            "schedule": schedule,
            "warmup_epochs": float(warmup_epochs),
        }
    )


def parameter_group(
    pattern: str,
    *,
    learning_rate: float = 1.0,
    weight_decay: float | None = None,
    frozen: bool = False,
) -> ml_collections.ConfigDict:
    """Returns a group of parameters with their own training options.

    Batch normalization updates its running statistics even if its parameters are
    frozen, except in a backbone that is frozen as a whole.

    Args:
      pattern: regular expression that matches the full path of each parameter of the
        group, such as `image/backbone/.*` or `.*/bias`. It must match at least one
        parameter.
      learning_rate: factor of the learning rate.
      weight_decay: weight decay of the group; None uses `optimizer.weight_decay`, and
        0 for the learned scalars of the loss.
      frozen: whether the parameters are not trained.
    """
    # With a placeholder the command line can replace None.
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
