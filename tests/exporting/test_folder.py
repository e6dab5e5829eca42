"""Writing and reading the folder of an export."""

import json
import threading

import numpy as np
import pytest
import safetensors.numpy

from vse_jax.array_trees import digest
from vse_jax.checkpoint import Restored
from vse_jax.errors import InputError
from vse_jax.exporting import folder

VARIABLES = {
    "params": {"text": {"words": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    "batch_stats": {},
}
PCA = {"mean": np.ones(3, np.float32)}
RUN = {
    "config": {"seed": 0},
    "vocabulary": {"words": ["<pad>", "größe", "犬"]},
    "extraction": None,
    "digests": {"variables": digest(VARIABLES), "pca": digest(PCA)},
}
RESTORED = Restored(12, VARIABLES, {}, RUN, {"rsum": 300.0}, PCA)


def write(path, restored=RESTORED, **options):
    defaults = {
        "backbone": {},
        "summary": {"embed_dim": 3},
        "card": "# A model\n",
        "programs": iter([("image_encoder.onnx", b"onnx")]),
    }
    folder.write_folder(str(path), restored, **defaults | options)


def names(path):
    return sorted(item.name for item in path.iterdir())


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "export"
    write(path)
    found = folder.read_folder(str(path))
    assert found._replace(variables=None, pca=None) == RESTORED._replace(
        variables=None, pca=None
    )
    np.testing.assert_array_equal(
        found.variables["params"]["text"]["words"], VARIABLES["params"]["text"]["words"]
    )
    assert found.variables["batch_stats"] == {}
    np.testing.assert_array_equal(found.pca["mean"], PCA["mean"])
    assert folder.read_run(str(path)) == RUN


def test_two_exports_to_one_folder_wait_for_each_other(tmp_path):
    other = threading.Thread(target=write, args=[tmp_path])

    def programs():
        yield "image_encoder.onnx", b"first"
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert folder.CONFIG_FILE not in names(tmp_path)
        yield "text_encoder.onnx", b"first"

    write(tmp_path, programs=programs())
    other.join()
    assert (tmp_path / "image_encoder.onnx").read_bytes() == b"onnx"
    assert "text_encoder.onnx" not in names(tmp_path)
    assert folder.read_run(str(tmp_path)) == RUN


def test_layout_is_that_of_hugging_face(tmp_path):
    write(tmp_path)
    expected = ["README.md", "config.json", "image_encoder.onnx", "model.safetensors"]
    assert names(tmp_path) == [*expected, "vocabulary.json"]
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert sorted(arrays) == ["params/text/words", "pca/mean"]
    assert json.loads((tmp_path / "config.json").read_text())["embed_dim"] == 3


def test_an_earlier_export_is_replaced(tmp_path):
    backbone = {"params": {"kernel": np.zeros(2, np.float32)}}
    write(tmp_path, backbone=backbone)
    assert "backbone.safetensors" in names(tmp_path)
    for name in ("eval", "galleries"):  # of --mode=eval and --mode=search
        (tmp_path / name).mkdir()
    write(tmp_path, RESTORED._replace(step=13), programs=iter([]))
    assert folder.read_folder(str(tmp_path)).step == 13
    assert not {"backbone.safetensors", "image_encoder.onnx"} & set(names(tmp_path))


def test_an_interrupted_export_keeps_the_earlier_one(tmp_path):
    write(tmp_path)

    def interrupted():
        yield "image_encoder.onnx", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, RESTORED._replace(step=13), programs=interrupted())
    assert folder.read_folder(str(tmp_path)).step == 12
    assert (tmp_path / "image_encoder.onnx").read_bytes() == b"onnx"
    write(tmp_path, RESTORED._replace(step=13))
    assert not [name for name in names(tmp_path) if name.startswith("incomplete")]


def refused(function, *words):
    with pytest.raises(InputError) as info:
        function()
    message = str(info.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_files_of_the_user_are_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refused(lambda: write(tmp_path), str(tmp_path), "notes.txt", "--output")
    assert names(tmp_path) == ["notes.txt"]
    refused(lambda: write(tmp_path / "notes.txt"), "notes.txt: is a file")


def test_a_model_of_another_program_is_not_touched(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused(lambda: write(tmp_path), "config.json", "not of a model that vse_jax")
    refused(lambda: folder.read_folder(str(tmp_path)), "not of a model that vse_jax")
    assert names(tmp_path) == ["config.json"]


def test_folder_of_a_newer_version_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {"format_version": 99}
    path.write_text(json.dumps(config))
    refused(lambda: folder.read_folder(str(tmp_path)), "format_version 99", "newer")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocabulary.json"]
)
def test_truncated_file_is_refused(tmp_path, name):
    write(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-7])
    refused(lambda: folder.read_folder(str(tmp_path)), name, "damaged", "again")


def test_missing_file_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(lambda: folder.read_folder(str(tmp_path)), "model.safetensors", "read")


def test_export_without_its_description_is_named(tmp_path):
    assert not folder.holds_model(str(tmp_path))
    write(tmp_path)
    assert folder.holds_model(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="an export, but no config"):
        folder.holds_model(str(tmp_path))


@pytest.mark.parametrize("name", ["vocabulary.json", "tokenizer.json"])
def test_vocabulary_of_another_export_is_refused(tmp_path, name):
    """Its words would be taken for others, without a word."""
    write(tmp_path)
    (tmp_path / name).write_text('{"words": ["<pad>", "犬", "größe"]}')
    for read in (folder.read_folder, folder.read_run):
        with pytest.raises(InputError, match=f"{name}: is not what config.json desc"):
            read(str(tmp_path))


def test_changed_weights_are_refused(tmp_path):
    """As after a copy of one file from another export, whose shapes agree."""
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(
        lambda: folder.read_folder(str(tmp_path)), "model.safetensors", "config.json"
    )


def test_config_without_an_entry_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["run"]["config"]
    path.write_text(json.dumps(config))
    refused(lambda: folder.read_folder(str(tmp_path)), "lacks run.config")
