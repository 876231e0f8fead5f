"""Inputs, outputs and compute options of `cafe predict`, as plain values."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cafe_cli.classes import ClassTable
from cafe_cli.config.choices import HeightKind, OnError, Unit
from cafe_cli.config.provenance import settings_path
from cafe_cli.errors import CafeError, OutputError
from cafe_cli.inference.quality import QUALITY
from cafe_cli.inference.throughput import Meter
from cafe_cli.raster.grid import Bounds
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.product import PERCENT, Product, confidence_product, label_product
from cafe_cli.raster.stac import StacOptions
from cafe_cli.redaction import redact

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class PredictInput:
    """The rasters of a scene to predict.

    Parameters
    ----------
    optical : tuple of str
        Orthophotos, mosaicked into one scene.
    elevation, dtm : tuple of str
        Surface models and terrain models.
    bands : tuple of int, optional
        Bands of the orthophotos, from 1, in the model's order; all but alpha if None.
    height_kind, height_unit, height_nodata : optional
        Kind, unit and nodata value of the heights, in place of those of the training data.
    optical_nodata : float, optional
        Value that marks voids in the orthophotos, in place of what they declare.
    crs : str, optional
        CRS of rasters without one.
    pixel_size : float, optional
        Metres per pixel of rasters without georeference.
    gsd : {'own', 'model'}
        Predict on the grid of the orthophoto, or resample to the model's ground sampling distance.
    aoi : str, optional
        Vector file with the area of interest as polygons.
    bbox : tuple of float, optional
        Left, bottom, right, top of the area of interest.
    bbox_crs : str, optional
        CRS of `bbox`; that of the orthophoto if None.
    strips : str, optional
        ``I/N``: predict only part I of N of the strips of the scene, on a grid around them; of
        several scenes, the scenes of part I. All parts together are the pixels of one run.
    ignore_mismatch : bool
        Warn instead of raising an error where the scene does not fit the model.
    on_error : {"fail", "skip"}
        Where a file cannot be read: raise an error, or leave nodata in the outputs.
    """

    optical: tuple[str, ...]
    elevation: tuple[str, ...] = ()
    dtm: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None
    height_kind: HeightKind | None = None
    height_unit: Unit | None = None
    height_nodata: float | None = None
    optical_nodata: float | None = None
    crs: str | None = None
    pixel_size: float | None = None
    gsd: Literal["own", "model"] = "own"
    aoi: str | None = None
    bbox: Bounds | None = None
    bbox_crs: str | None = None
    strips: str | None = None
    ignore_mismatch: bool = False
    on_error: OnError = "fail"

    @property
    def paths(self) -> list[str]:
        """All files to read."""
        return [*self.optical, *self.elevation, *self.dtm, *([self.aoi] if self.aoi else [])]


@dataclass(frozen=True)
class PredictOutput:
    """The rasters to write: COGs, uint8, nodata 255, on the grid of the scene.

    Parameters
    ----------
    labels : Path
        Class ids. The settings are written next to it, with ``.toml`` appended to the name.
    confidence : Path, optional
        Probability of the label in per cent.
    probabilities : Path, optional
        Probability of every class in per cent, one band each.
    quality : Path, optional
        Data behind a label, as a code of `cafe_cli.inference.quality.QUALITY`.
    options : mapping
        Creation options of GDAL's COG driver, in place of the defaults.
    overwrite : bool
        Replace outputs that exist.
    resume : bool
        Continue an interrupted run.
    stac : StacOptions, optional
        Write a STAC item beside the labels.
    """

    labels: Path
    confidence: Path | None = None
    probabilities: Path | None = None
    quality: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    resume: bool = False
    stac: StacOptions | None = None

    @property
    def paths(self) -> dict[str, Path]:
        """The files by product name, labels first."""
        names = ("labels", "confidence", "probabilities", "quality")
        return {name: path for name in names if (path := getattr(self, name))}

    def in_folders(self, name: str) -> "PredictOutput":
        """Return the outputs as files called `name` in the folders that these paths are."""
        files: dict[str, Any] = {product: path / name for product, path in self.paths.items()}
        return replace(self, **files)

    def check(self, inputs: Sequence[str]) -> None:
        """Refuse outputs that cannot or must not be written, before any work is done.

        With `resume` outputs may exist: whether they are those of the run to resume is known only
        when the run is planned.

        Raises
        ------
        ConfigError
            Two outputs, or an input and an output, are one file, or one is not named like a
            GeoTIFF.
        OutputError
            An output exists or is a folder, or its folder cannot be made.
        """
        paths = [*self.paths.values()]
        for path in paths:
            if path.is_dir():
                raise OutputError(f"{path} is a folder; name a file, or pass --per-file")
        check_rasters(paths, inputs, self.overwrite or self.resume, [settings_path(self.labels)])

    def products(self, classes: ClassTable) -> list[Product]:
        """Return the products to write."""
        products = [label_product(self.labels, classes)]
        if self.confidence:
            products.append(confidence_product(self.confidence))
        if self.probabilities:
            count, names = len(classes), classes.names
            products.append(
                Product("probabilities", self.probabilities, count, None, names, PERCENT)
            )
        if self.quality:
            products.append(Product("quality", self.quality, 1, QUALITY, ("quality",)))
        return products


@dataclass(frozen=True)
class ComputeOptions:
    """Devices and threads.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N``, a list of these, or ``all`` GPUs.
    jobs : int, optional
        Number of reader threads; one per core if None.
    """

    device: str = "auto"
    jobs: int | None = None


@dataclass
class SceneJob:
    """A scene to predict, and what became of it.

    Attributes
    ----------
    source : PredictInput
    outputs : PredictOutput
    name : str
        For the display of progress; empty where there is one scene.
    meter : Meter or None
        Counts of the scene once it is done.
    error : CafeError, OSError or None
        Why it failed.
    """

    source: PredictInput
    outputs: PredictOutput
    name: str = ""
    meter: Meter | None = None
    error: CafeError | OSError | None = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Keep the first error of the scene, and log it."""
        try:
            yield
        except (CafeError, OSError) as error:
            if self.error is None:
                self.error = error
                self._log()

    def _log(self) -> None:
        """Log the error of one scene of many; that of a single one is raised."""
        file = redact(self.source.optical[0])
        if self.name:
            log.error("%s", f"{self.error}" if file in str(self.error) else f"{file}: {self.error}")
