"""A pickle that runs code, for the readers that must refuse it."""

import os


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self._folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self._folder,)
