"""Import of files and parameter names of PyTorch repositories."""
