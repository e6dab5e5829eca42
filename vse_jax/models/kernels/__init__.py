"""Fast forms of functions, each beside the plain form that it must equal."""
