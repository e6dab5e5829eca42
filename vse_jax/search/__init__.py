"""Search of galleries."""
