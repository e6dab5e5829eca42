"""Feature extraction from photos: the program's `--mode=extract`."""
