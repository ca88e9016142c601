"""The one file: reads it without onnxruntime, checks it, and knows what its card says."""
