"""What every file of captions is read into."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """A row or record of a file of captions.

    Attributes:
      where: file and line or record, for messages.
      image: the photo's path as the file has it.
      captions: without surrounding spaces, none of them empty; there may be none.
      split: as the file has it; None if it has no splits.
      folder: below the root, where the photo is most likely; "" if nothing tells.
    """

    where: str
    image: str
    captions: list[str]
    split: str | None = None
    folder: str = ""
