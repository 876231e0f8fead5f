"""How a map is made."""

from typing import Annotated, Literal

from pydantic import Field

from cafe_cli.config.choices import TTA, Blend, Engine
from cafe_cli.config.types import STRIDE, Count, Section, Window, describe


class PredictSettings(Section):
    """The windows of a scene, and the averaging of predictions."""

    window: Annotated[
        Literal["auto"] | Annotated[Window, Field(ge=STRIDE)],
        describe(
            'Side of a window, a multiple of 32. `"auto"` is the size near 1000 that covers the '
            "scene with the fewest pixels.",
            unit="pixels",
            examples=[1024],
        ),
    ] = "auto"
    overlap: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=0)],
        describe(
            'Overlap of neighbouring windows, a multiple of 32. `"auto"` is 128, or a quarter of a '
            "small window.",
            unit="pixels",
            examples=[256],
        ),
    ] = "auto"
    blend: Annotated[
        Blend,
        describe(
            "Weights of the pixels of a window: they decrease from the centre to the edges "
            '(`"hann"`, `"gaussian"`), or half of the overlap is cut off (`"crop"`).'
        ),
    ] = "hann"
    tta: Annotated[
        TTA,
        describe(
            'Test-time augmentation: average over the four flips (`"flips"`) or the eight '
            'symmetries of a square (`"d4"`).'
        ),
    ] = "none"
    scales: Annotated[
        Literal["auto"]
        | Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Field(min_length=1)],
        describe(
            "Scales of image and heights to average over; above 1, the network sees things larger "
            'than they were in training. `"auto"` is what the config of the training says, else 1.',
            unit="factor",
            examples=[[0.75, 1.0, 1.25]],
        ),
    ] = "auto"
    batch_size: Annotated[
        Literal["auto"] | Annotated[Count, Field(le=65536)],
        describe(
            'Windows that the network takes at a time. `"auto"` is 1 on a CPU and what fits on a '
            "GPU.",
            unit="windows",
            examples=[4],
        ),
    ] = "auto"
    engine: Annotated[
        Engine,
        describe(
            'What runs the network. `"auto"` is ONNX Runtime on a CPU, if it is installed and '
            "saves more time than it takes to start, and torch elsewhere."
        ),
    ] = "auto"
    cuda_graphs: Annotated[
        bool,
        describe(
            "Record the passes of the network as CUDA graphs, and replay them: less work for the "
            "host, more memory on the GPU. Without effect on a CPU; not measured yet."
        ),
    ] = False
