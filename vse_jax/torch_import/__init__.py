"""All that knows the names and files of PyTorch repositories."""
