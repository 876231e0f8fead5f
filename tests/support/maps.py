"""Join maps with fewer words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.mosaic import mosaic as engine
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.mosaic import MosaicResult
from cafe_cli.raster.stac import StacOptions
from cafe_cli.system.threads import ProgressCallback


class Confidences(NamedTuple):
    """Confidence rasters to read and to write."""

    inputs: Sequence[str] = ()
    output: Path | None = None


def mosaic(
    labels: Sequence[str],
    output: Path,
    *,
    confidences: Confidences | None = None,
    probabilities: Sequence[str] = (),
    sources: Path | None = None,
    overwrite: bool = False,
    stac: StacOptions | None = None,
    block_size: int | None = None,
    resume: bool = False,
    cluster: ClusterOptions | None = None,
    progress: ProgressCallback = lambda done, total: None,
    **options: Any,
) -> MosaicResult:
    """Join label rasters; `options` are attributes of `MosaicOptions`."""
    known, beside = confidences or ((), None)
    inputs = MosaicInputs(tuple(labels), tuple(known), tuple(probabilities))
    outputs = MosaicOutputs(output, beside, sources, overwrite, stac, block_size, resume)
    return engine.mosaic(
        inputs, outputs, MosaicOptions(**options), cluster=cluster, progress=progress
    )
