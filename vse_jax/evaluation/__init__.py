"""Evaluation: embedding a split, ranking it, and reporting the metrics."""
