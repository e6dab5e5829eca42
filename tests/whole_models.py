"""Small CLIPs and SigLIPs of Hugging Face with random parameters and tokenizers."""

import json
import pathlib

import tokenizers

from tests.models.backbones import hugging_face

WORDS = ("red", "green", "blue", "dark", "light", "sky", "sea")
PIXELS = 32
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VISION = _TOWER | {"image_size": PIXELS, "patch_size": 8}
POSITIONS = 20


def save_clip(folder: pathlib.Path, seed: int = 0):
    """Saves a CLIP with the vocabulary of letters and a few words; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = ["r e", "re d</w>", "s k", "sk y</w>", "b l", "bl u", "blu e</w>"]
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    text = _TOWER | {
        "vocab_size": len(tokens),
        "max_position_embeddings": POSITIONS,
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1,
    }
    library = hugging_face.transformers
    model = library.CLIPModel(
        library.CLIPConfig(vision_config=_VISION, text_config=text, projection_dim=24)
    )
    return _save(model, folder, seed, {"shortest_edge": 36}, do_center_crop=True)


def save_siglip(folder: pathlib.Path, seed: int = 0):
    """Saves a SigLIP with a tokenizer of whole words; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["<unk>", "</s>", *(f"\u2581{word}" for word in WORDS), "\u2581"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    )
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    options = {"pad_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    text = _TOWER | {
        "vocab_size": len(pieces),
        "max_position_embeddings": POSITIONS,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    library = hugging_face.transformers
    model = library.SiglipModel(
        library.SiglipConfig(vision_config=_VISION, text_config=text)
    )
    return _save(model, folder, seed, {"height": PIXELS, "width": PIXELS})


def _save(model, folder, seed, size, **options):
    model = hugging_face.randomize(model, seed).eval()
    model.logit_scale.data.fill_(3.0)
    hugging_face.save(model, folder, size=size, crop_size=PIXELS, **options)
    return model


SAVE = {"clip": save_clip, "siglip": save_siglip}
