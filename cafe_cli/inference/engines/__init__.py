"""Inference engines: torch and ONNX Runtime."""
