"""A pickle that runs code, for tests of readers that must refuse it."""

import os


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder):
        self._folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self._folder,)
