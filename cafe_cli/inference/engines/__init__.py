"""What runs the network: torch, or ONNX Runtime."""
