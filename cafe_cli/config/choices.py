"""Choices of settings that the command line shares; free of pydantic, which is slow to import."""

from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["auto", "metre", "foot", "us-foot", "decimetre", "centimetre"]
HeightKind: TypeAlias = Literal["dsm", "ndsm"]
Ground: TypeAlias = Literal["auto", "dtm", "estimate", "none"]
Guidance: TypeAlias = Literal["none", "labels", "distill"]
Precision: TypeAlias = Literal["auto", "32-true", "bf16-mixed"]
Blend: TypeAlias = Literal["hann", "gaussian", "crop"]
TTA: TypeAlias = Literal["none", "flips", "d4"]
Engine: TypeAlias = Literal["auto", "torch", "onnx"]
OnError: TypeAlias = Literal["fail", "skip"]
