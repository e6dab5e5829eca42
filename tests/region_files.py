"""Writes folders of region features, and reads what is prepared from them."""

import base64

import numpy as np


def write_lines(path, lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_captions(root, split, images, per_image=5):
    lines = [f"caption {c} of {i}" for i in range(images) for c in range(per_image)]
    write_lines(root / f"{split}_caps.txt", lines)


def ragged(counts, dim=4, seed=0):
    """Returns a list of float32 `[count, dim]`."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, dim)).astype(np.float32) for count in counts]


def padded(images, dtype=np.float32):
    """Returns images of different numbers of regions in one array, with zeros."""
    array = np.zeros((len(images), max(map(len, images)), images[0].shape[1]), dtype)
    for row, image in zip(array, images, strict=True):
        row[: len(image)] = image
    return array


def tsv_line(image_id, features, *, fields=6):
    """Returns a line as bottom-up attention writes it (6 fields), or LXMERT (10)."""
    boxes = np.zeros((len(features), 4), np.float32)
    encoded = [base64.b64encode(array.tobytes()) for array in (boxes, features)]
    between = [b"640", b"480"] + [b"AAAA"] * (fields - 6)
    count = str(len(features)).encode()
    return b"\t".join([str(image_id).encode(), *between, count, *encoded]) + b"\n"


def read(builder, split="train"):
    return list(builder.as_data_source(split))


def assert_stored(builder, images, split="train"):
    """Checks that each record has the regions of an image in float16, bit for bit."""
    examples = read(builder, split)
    assert len(examples) == len(images)
    for example, image in zip(examples, images, strict=True):
        assert example["regions"].dtype == np.float16
        np.testing.assert_array_equal(example["regions"], image.astype(np.float16))
