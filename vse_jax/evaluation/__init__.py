"""Evaluation: embeds a split, ranks it, and reports the metrics."""
