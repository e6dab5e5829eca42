"""Galleries: embeddings on disk that can be searched, and how they are written."""
