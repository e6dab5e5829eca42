"""Extraction of features from photos: the program's `--mode=extract`."""
