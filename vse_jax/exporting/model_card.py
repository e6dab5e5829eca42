"""The model card of an export: `README.md`, with the metadata of Hugging Face."""

import importlib.metadata
import json
import textwrap

import ml_collections

from vse_jax.evaluation.report import format_metrics
from vse_jax.losses import mines_negatives
from vse_jax.run_config import IMPORTED_FROM, value_of

_PACKAGES = ("jax", "flax")
_RECALLS = tuple(
    (f"{direction}_r{k}", f"R@{k}, {name}")
    for direction, name in (("i2t", "image to text"), ("t2i", "text to image"))
    for k in (1, 5, 10)
)
_IMPORTED_TITLE = "# Image-text retrieval, an imported model"
# The configuration in short, after the loss; `config.json` has all of it.
_OPTIONS = (
    "loss.similarity",
    "optimizer.name",
    "optimizer.learning_rate",
    "batch_size",
    "epochs",
    "seed",
)
_CITATIONS = {
    "selective": "Li et al., Selectively Hard Negative Mining for Alleviating Gradient "
    "Vanishing in Image-Text Matching, arXiv:2303.00181, 2023.",
    "infonce": "Radford et al., Learning Transferable Visual Models From Natural "
    "Language Supervision, ICML 2021.",
    "sigmoid": "Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023.",
    "esa": "Zhu et al., ESA: External Space Attention Aggregation for Image-Text "
    "Retrieval, TCSVT 2023.",
    "gpo": "Chen et al., Learning the Best Pooling Strategy for Visual Semantic "
    "Embedding, CVPR 2021.",
    "order": "Vendrov et al., Order-Embeddings of Images and Language, ICLR 2016.",
    "vse": "Faghri et al., VSE++: Improving Visual-Semantic Embeddings with Hard "
    "Negatives, BMVC 2018.",
}


def write(
    run: dict,
    config: ml_collections.ConfigDict,
    summary: dict,
    evaluations: list[dict],
) -> str:
    """Returns the card, Markdown.

    Args:
      run: description of the run.
      config: its configuration.
      summary: see `export.summarize`.
      evaluations: contents of `eval/SPLIT.json`.
    """
    name = _dataset_name(config.data)
    imported = IMPORTED_FROM in run  # its training is known only in part
    parts = [
        _metadata(name, evaluations, imported=imported),
        _title("" if imported else name, summary),
        _results(evaluations),
        _data(run),
        _training(config, imported=imported),
        _usage(summary),
        _onnx_usage(summary, run["vocabulary"]),
        _stablehlo_usage(),
        _license(),
        _citation(config),
    ]
    return "\n\n".join(parts) + "\n"


def _dataset_name(data):
    return data.root.rstrip("/").rpartition("/")[2] or data.builder


def _metadata(name, evaluations, *, imported):
    """Returns the front matter; each value is JSON, which is valid YAML."""
    values = {
        "library_name": "vse_jax",
        "license": "unknown",
        "pipeline_tag": "feature-extraction",
        "tags": ["image-text-retrieval", "visual-semantic-embedding", "jax", "onnx"],
        "datasets": [name],
        "metrics": ["recall"],
    }
    if imported:
        del values["datasets"]
    results = [_index_entry(name, evaluation) for evaluation in evaluations]
    if results:
        values["model-index"] = [{"name": "vse_jax model", "results": results}]
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _index_entry(name, evaluation):
    metrics = evaluation["metrics"]
    return {
        "task": {"type": "image-text-retrieval", "name": "Image-text retrieval"},
        "dataset": {"type": name, "name": name, "split": evaluation["split"]},
        "metrics": [
            {"type": "recall", "name": title, "value": round(metrics[key], 2)}
            for key, title in _RECALLS
        ],
    }


def _title(name, summary):
    """Returns the title and what the model is; `name` is "" if it was imported."""
    architecture = summary["architecture"]
    takes = ", ".join(summary["encoders"]["image_encoder"]["inputs"])
    return _paragraphs(
        f"# Image-text retrieval, trained on {name}" if name else _IMPORTED_TITLE,
        f"Two encoders map images and captions to vectors of {summary['embed_dim']} "
        f"dimensions, whose {summary['similarity']} similarity ranks them. The image "
        f"encoder is `{architecture['image_encoder']}` and takes {takes}"
        + (
            f", with the backbone `{architecture['backbone']}`"
            if architecture["backbone"]
            else ""
        )
        + f". The text encoder is `{architecture['text_encoder']}`. "
        f"The model was {'trained' if name else 'imported'} and exported by vse_jax.",
    )


def _results(evaluations):
    if not evaluations:
        return _paragraphs(
            "## Results", "This checkpoint was not evaluated before its export."
        )
    parts = ["## Results"]
    for evaluation in evaluations:
        parts.append(
            f"Split `{evaluation['split']}`, {evaluation['images']:,} images, "
            f"{evaluation['captions']:,} captions; recalls in percent. Ties count "
            "against the model."
        )
        parts.append(f"```\n{format_metrics(evaluation['metrics'])}\n```")
    return "\n\n".join(parts)


def _data(run):
    dataset, extraction = run["dataset"], run["extraction"]
    if not dataset:
        return _paragraphs(
            "## Data", "The model was imported; its data is not recorded."
        )
    lines = ["| split | images | captions | digest |", "| --- | --: | --: | --- |"]
    lines += [
        f"| {split} | {found['images']:,} | {found['captions']:,} | "
        f"`{found['digest']}` |"
        for split, found in dataset["splits"].items()
    ]
    parts = ["## Data", "\n".join(lines)]
    if extraction:
        parts.append(
            _wrapped(
                f"The {dataset['content']} were extracted from photos by "
                f"`{extraction['config.model.backbone.name']}`. `config.json` has all "
                "options of the extraction, in `run.extraction`."
            )
        )
    return "\n\n".join(parts)


def _options(config):
    """Returns the options to show; those of a part only if it is used."""
    loss = config.loss
    mining = ("loss.mining", "loss.margin") if mines_negatives(loss) else ()
    scale = ("loss.scale", "loss.learn_scale") if loss.name != "triplet" else ()
    views = ("loss.views",) if loss.views > 1 else ()
    dropout = [f"model.{x}" for x in ("dropout", "text_dropout") if config.model[x]]
    average = ("optimizer.average_decay",) if config.optimizer.average_decay else ()
    return ("loss.name", *mining, *scale, *views, *_OPTIONS, *dropout, *average)


def _training(config, *, imported):
    """Returns the options of the training; those of the loss if it was imported."""
    lines = ["| option | value |", "| --- | --- |"]
    options = _options(config)
    if imported:
        options = [option for option in options if option.startswith("loss.")]
    for option in options:
        lines.append(f"| `{option}` | {value_of(config, option)} |")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in _PACKAGES)
    return "\n\n".join(
        [
            "## Training",
            "\n".join(lines),
            _wrapped(
                (
                    "The model was imported, so its other options are not known. "
                    if imported
                    else "`config.json` has the whole configuration, in `run.config`. "
                )
                + f"Exported with {versions}."
            ),
        ]
    )


def _usage(summary):
    image = '"photo.jpg"' if summary["preprocessing"]["photo"] else "regions"
    return "\n\n".join(
        [
            "## Use with vse_jax",
            "```python\nimport vse_jax\n\n"
            'model = vse_jax.load("FOLDER")\n'
            f"images = model.embed_images([{image}])\n"
            'model.similarity(images, model.embed_captions(["a dog on a beach"]))\n```',
        ]
    )


def _onnx_usage(summary, vocabulary):
    if "tokenizer" in vocabulary:
        imports, captions, advice = _tokenizer_usage()
    else:
        imports, captions, advice = _words_usage(vocabulary["words"])
    image_code = _image_code(summary)
    pil = "from PIL import Image, ImageOps\n" if "ImageOps" in image_code else ""
    code = f"""\
{imports}{pil}
{captions}
text_encoder = onnxruntime.InferenceSession("text_encoder.onnx")
tokens = np.array([caption], np.int32)
token_count = np.array([len(caption)], np.int32)
(embedding,) = text_encoder.run(None, {{"tokens": tokens, "token_count": token_count}})

image_encoder = onnxruntime.InferenceSession("image_encoder.onnx")
{image_code}
print({_score(summary["similarity"])})"""
    return (
        _paragraphs(
            "## Use with onnxruntime",
            f"The batch may have any size. {advice}, padded with 0 to one length.",
        )
        + f"\n\n```python\n{code}\n```"
    )


def _words_usage(words):
    """Returns imports, code that makes a `caption` of tokens, and a sentence on it."""
    captions = f"""\
words = json.load(open("vocabulary.json"))["words"]
number = {{word: i for i, word in enumerate(words)}}
caption = "<start> {" ".join(words[4:7])} <end>".split()
caption = [number.get(word, number["<unk>"]) for word in caption]"""
    imports = "import json\n\nimport numpy as np\nimport onnxruntime\n"
    advice = "Captions are lower-case words of the tokenizer that `config.json` names"
    return imports, captions, advice


def _tokenizer_usage():
    """Returns the same as `_words_usage` for pieces of words."""
    captions = """\
tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
caption = tokenizer.encode("a dog on a beach").ids"""
    imports = "import numpy as np\nimport onnxruntime\nimport tokenizers\n"
    return imports, captions, "Captions are the tokens of `tokenizer.json`"


def _image_code(summary):
    """Returns code that computes `images`, from a photo if that is possible."""
    encoders = summary["encoders"]
    inputs = encoders["image_encoder"]["inputs"]
    arrays = ", ".join(f'"{name}": {name}' for name in inputs)
    embed = f"(images,) = image_encoder.run(None, {{{arrays}}})"
    if "image" in inputs:
        return f"{_photo_code(summary)}\n{embed}"
    if "backbone" not in encoders:
        shapes = "; ".join(f"{name}: {what}" for name, what in inputs.items())
        return f"# {shapes}\n{embed}"
    (content, *counts) = inputs
    lines = [
        _photo_code(summary),
        'backbone = onnxruntime.InferenceSession("backbone.onnx")',
        f'({content},) = backbone.run(None, {{"image": image}})',
        *(f"{name} = np.array([{content}.shape[1]], np.int32)" for name in counts),
        embed,
    ]
    return "\n".join(lines)


def _photo_code(summary):
    photo = summary["preprocessing"]["photo"]
    if photo["crop"] == "none":
        return f"""\
size = {photo["image_size"]}  # pixels
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
image = np.asarray({_resized("(size, size)", photo["interpolation"])})[None]"""
    rounds_down = photo["crop"].endswith("rounded down")
    offset = "(side - size) // 2" if rounds_down else "round((side - size) / 2)"
    return f"""\
size, shorter = {photo["image_size"]}, {photo["resize"]}  # pixels
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
sides = [shorter * side // min(photo.size) for side in photo.size]
left, top = [{offset} for side in sides]
photo = {_resized("sides", photo["interpolation"])}
photo = photo.crop((left, top, left + size, top + size))
image = np.asarray(photo)[None]"""


def _resized(sides, interpolation):
    if interpolation == "opencv":  # PIL would widen the filter of a resize
        box = "(0, 0, *photo.size)"
        return f"photo.transform({sides}, Image.EXTENT, {box}, Image.BILINEAR)"
    return f"photo.resize({sides}, Image.{interpolation.upper()})"


def _score(similarity):
    if similarity == "order":
        return "-np.linalg.norm(np.maximum(0, embedding - images), axis=-1)"
    return "images @ embedding.T"


def _stablehlo_usage():
    return _paragraphs(
        "## Use with JAX alone",
        "Each `.stablehlo` file is a function for CPUs, NVIDIA GPUs and TPUs. It takes "
        "the arrays of `config.json`, `encoders`, in their order:",
    ) + (
        "\n\n```python\nimport jax.export\n\n"
        'content = open("text_encoder.stablehlo", "rb").read()\n'
        "embed = jax.export.deserialize(bytearray(content)).call\n```"
    )


def _license():
    return _paragraphs(
        "## License",
        "vse_jax has the Apache License 2.0. The license of these weights depends on "
        "the data and the backbone that they were trained with: set the field "
        "`license` above.",
    )


def _citation(config):
    loss = config.loss
    mining = [loss.mining] if mines_negatives(loss) else []
    views = ["esa"] if loss.views > 1 else []
    keys = [loss.name, *mining, *views, config.model.pooling, loss.similarity, "vse"]
    found = [_CITATIONS[key] for key in dict.fromkeys(keys) if key in _CITATIONS]
    items = [textwrap.fill(f"- {text}", 88, subsequent_indent="  ") for text in found]
    return "\n\n".join(["## Citation", "\n".join(items)])


def _paragraphs(heading, text):
    return f"{heading}\n\n{_wrapped(text)}"


def _wrapped(text):
    return textwrap.fill(text, 88, break_on_hyphens=False, break_long_words=False)
