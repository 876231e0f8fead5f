"""Facts of the config that the command line shares; free of pydantic, which is slow to import."""

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
ExportTarget: TypeAlias = Literal["cafe", "deepness", "geodeep"]

_SCENES = ("root", "scenes", "classes", "height", "labels", "split", "tile")
_TRAINING = ("model", "train", "augment")

READ_BY: dict[str, tuple[str, ...]] = {
    "check": _SCENES,
    "tile": _SCENES,
    "train": ("root", *_TRAINING),
    "predict": ("predict",),
    "demo": (*_SCENES, *_TRAINING),
    "evaluate": _SCENES,
    "heights": ("scenes.crs", "scenes.pixel_size", "height"),
    "areas": ("scenes.crs", "classes"),
    "sample": ("scenes.crs", "classes"),
    "suggest": ("root", "scenes.crs", "classes", "labels"),
    "vectorize": ("scenes.crs", "scenes.pixel_size", "classes"),
    "report": (
        "root", "scenes.bands", "scenes.crs", "scenes.optical_nodata", "classes", "height",
        "labels",
    ),
}  # fmt: skip
"""Sections and keys that each command reads of a config."""
