"""Computes what the package transformers computes, in a process of its own.

PyTorch's compiler cannot be loaded into a process that has loaded TensorFlow.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def states_and_gradients(folder, model_class, place, **inputs):
    """Runs a model forward and back.

    Args:
      folder: folder of the model in Hugging Face's layout.
      model_class: class of transformers, such as `BertModel`.
      place: folder for files.
      **inputs: arrays that the model takes. Those named `dropout...`, in this order,
        replace its dropout: the model multiplies by them.

    Returns:
      States `[batch, time, dim]`; and, by the model's names, the gradients of the sum
      of all states times `weights_of(states)`, without padding.
    """
    np.savez(place / "inputs.npz", **inputs)
    _run("model", folder, model_class, place / "inputs.npz", place / "outputs.npz")
    with np.load(place / "outputs.npz") as arrays:
        found = dict(arrays)
    return found.pop("states"), found


def tokens_of(folder, texts, place):
    """Returns the token numbers of each text by the tokenizer in a folder."""
    (place / "texts.json").write_text(json.dumps(texts))
    _run("tokens", folder, place / "texts.json", place / "tokens.json")
    return json.loads((place / "tokens.json").read_text())


def weights_of(states):
    """Returns numbers of the shape of states; equal in every process."""
    return np.random.default_rng(7).normal(size=states.shape).astype(np.float32)


def save_random(folder, model_class, options):
    """Writes `config.json` and random weights of a model, all of them not zero."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("random", folder, model_class, json.dumps(options))


def _run(*arguments):
    subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        check=True,
        env={**os.environ, **_QUIET},
    )


def _model(folder, model_class, inputs, outputs):
    import torch
    import transformers

    model = getattr(transformers, model_class).from_pretrained(
        folder, attn_implementation="eager"
    )
    with np.load(inputs) as arrays:
        given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    factors = [given.pop(name) for name in list(given) if name.startswith("dropout")]
    model.train(bool(factors))
    if factors:
        factors.reverse()
        torch.nn.functional.dropout = lambda x, *_, **__: x * factors.pop()
    states = model(**given)[0]
    assert not factors
    weights = torch.from_numpy(weights_of(states))
    if "attention_mask" in given:
        weights = weights * given["attention_mask"][..., None]
    (states * weights).sum().backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    np.savez(outputs, states=states.detach().numpy(), **gradients)


def _tokens(folder, texts, output):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.loads(pathlib.Path(texts).read_text())
    found = [tokenizer(text)["input_ids"] for text in texts]
    pathlib.Path(output).write_text(json.dumps(found))


def _random(folder, model_class, options):
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, model_class)
    model = kind(kind.config_class(**json.loads(options)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)


if __name__ == "__main__":
    {"model": _model, "tokens": _tokens, "random": _random}[sys.argv[1]](*sys.argv[2:])
