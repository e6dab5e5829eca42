"""The record that all readers of captions files yield."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """A row or record of a captions file.

    Attributes:
      where: file and line or record, for messages.
      image: path of the photo as written in the file.
      captions: non-empty captions without surrounding spaces; the list may be empty.
      split: split as written in the file; None if the file has no splits.
      folder: likely folder of the photo below the root; "" if unknown.
    """

    where: str
    image: str
    captions: list[str]
    split: str | None = None
    folder: str = ""
