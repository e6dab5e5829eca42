"""`--mode=export`: a folder in Hugging Face's layout, with StableHLO and ONNX."""
