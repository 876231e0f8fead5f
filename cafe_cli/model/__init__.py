"""The network, its encoders, its inputs, the model file, and the device that it runs on."""
