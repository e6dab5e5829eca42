"""The encoders of a model, each as a function of arrays, ready to be exported.

They are traced in their plain forms (`kernels.platforms.plain_forms`), in float32, with
symbolic dimensions: a batch of any size, captions of up to `pooling.LONGEST` tokens, or
as many as a transformer has positions, and up to `pooling.LONGEST` regions, or exactly
those of the extraction if these are more.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from vse_jax import run_config
from vse_jax.checkpoint import Restored
from vse_jax.data.text import vocabularies
from vse_jax.extraction import pca
from vse_jax.extraction.extractor import make_extract_step
from vse_jax.image_inputs import extraction_config, photo_size
from vse_jax.models.image_encoders import ENCODERS
from vse_jax.models.kernels.platforms import plain_forms
from vse_jax.models.pooling import LONGEST
from vse_jax.models.vse import VSE, content_dim, create_model

PLATFORMS = ("cpu", "cuda", "tpu")


class Encoder(NamedTuple):
    """A function to export.

    Attributes:
      name: stem of its files.
      function: function of the arrays of `inputs`, in their order.
      inputs: shapes of the arguments by name, with symbolic dimensions.
      output: name of the result.
    """

    name: str
    function: Callable[..., jax.Array]
    inputs: dict[str, jax.ShapeDtypeStruct]
    output: str

    def traced_plainly(self, *args: jax.Array) -> jax.Array:
        """Calls the function in its plain form, with products in float32."""
        # TPUs would multiply in bfloat16 otherwise.
        with plain_forms(True), jax.default_matmul_precision("float32"):
            return self.function(*args)

    def to_onnx(self, properties: Mapping[str, str]) -> bytes:
        """Returns the ONNX model, with properties that its readers may want."""
        from vse_jax.exporting.onnx_graph.translate import translate  # needs onnx

        model = translate(self.traced_plainly, self.inputs, self.output, properties)
        return model.SerializeToString()

    def to_stablehlo(self) -> bytes:
        """Returns the program for all of `PLATFORMS`, for `jax.export.deserialize`."""
        export = jax.export.export(jax.jit(self.traced_plainly), platforms=PLATFORMS)
        return bytes(export(*self.inputs.values()).serialize())


def encoders(restored: Restored, backbone: dict) -> list[Encoder]:
    """Returns the image encoder, the text encoder, and the backbone of its features.

    The backbone is missing if the size of its photos is not known.

    Args:
      restored: content of a checkpoint.
      backbone: variables of the backbone that extracted the training's features; {} if
        there is none.

    Raises:
      InputError: if the checkpoint's PCA is of another version of this program.
    """
    config = run_config.from_json(restored.run["config"])
    config.dtype = "float32"
    vocabulary = vocabularies.of_run(restored.run)
    model = create_model(config, len(vocabulary), train=False)
    of_photos = []
    if backbone and photo_size(restored.run["extraction"]):
        of_photos = [_backbone(restored, backbone)]
    return [
        _image_encoder(restored, config, model, _region_count(*of_photos)),
        _text_encoder(model, restored.variables, config.model.text_tower.positions),
        *of_photos,
    ]


def _region_count(backbone: Encoder | None = None) -> int:
    """Returns the number of regions of a photo; 0 if it has none or is not known."""
    if backbone is None:
        return 0
    (image,) = backbone.inputs.values()
    one = jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype)
    features = jax.eval_shape(backbone.function, one)
    return features.shape[1] if features.ndim == 3 else 0


def _image_encoder(restored, config, model: VSE, extracted_regions):
    variables = restored.variables
    inputs = _image_inputs(restored, config, extracted_regions)

    def embed_images(*arrays):
        batch = dict(zip(inputs, arrays, strict=True))
        return model.apply(variables, batch, method="embed_images")

    return Encoder("image_encoder", embed_images, inputs, "embedding")


def _image_inputs(restored, config, extracted_regions):
    if config.model.backbone.name:
        return {"image": _photos(restored.run["preprocessing"]["image_size"])}
    dim = content_dim(restored.variables)
    if ENCODERS[config.model.image_encoder].content == "feature":
        (batch,) = _free_dimensions()
        return {"feature": jax.ShapeDtypeStruct((batch, dim), jnp.float32)}
    batch, regions = _free_dimensions(regions=LONGEST)
    if extracted_regions > LONGEST:
        regions = extracted_regions
    return {
        "regions": jax.ShapeDtypeStruct((batch, regions, dim), jnp.float32),
        "region_count": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }


def _text_encoder(model: VSE, variables, positions):
    batch, time = _free_dimensions(time=min(positions or LONGEST, LONGEST))

    def embed_captions(tokens, token_count):
        captions = {"tokens": tokens, "token_count": token_count}
        return model.apply(variables, captions, method="embed_captions")

    inputs = {
        "tokens": jax.ShapeDtypeStruct((batch, time), jnp.int32),
        "token_count": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    return Encoder("text_encoder", embed_captions, inputs, "embedding")


def _backbone(restored, backbone):
    """Returns the function from photos to the features that the training used."""
    config = extraction_config(restored.run["extraction"])
    config.dtype = "float32"
    extract = make_extract_step(config)
    parameters = backbone, pca.restored(restored.pca)

    def compute_features(image):
        features = extract(parameters, image)
        return features.astype(jnp.float32)  # they were stored as float16

    inputs = {"image": _photos(config.data.image_size)}
    content = ENCODERS[restored.run["config"]["model"]["image_encoder"]].content
    return Encoder("backbone", compute_features, inputs, content)


def _photos(size):
    (batch,) = _free_dimensions()
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)


def _free_dimensions(**lengths: int):
    """Returns symbolic dimensions: of the batch, and of each length with its limit."""
    return jax.export.symbolic_shape(
        ", ".join(["batch", *lengths]),
        constraints=[f"{name} <= {longest}" for name, longest in lengths.items()],
    )
