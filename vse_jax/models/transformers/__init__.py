"""Parts of transformers that several towers share."""
