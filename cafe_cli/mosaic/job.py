"""Inputs, outputs and options of `cafe mosaic`, as plain values."""

from dataclasses import dataclass, field
from pathlib import Path

from cafe_cli.config.choices import OnError
from cafe_cli.config.provenance import settings_path
from cafe_cli.mosaic.grid import TargetGrid
from cafe_cli.raster.stac import StacOptions


@dataclass(frozen=True)
class MosaicInputs:
    """The rasters to join; confidences and probabilities are in the order of the labels.

    Parameters
    ----------
    labels : tuple of str
        Label rasters. Confidence, quality and other rasters that cafe wrote may be among them, as
        in a folder: they are no labels, and serve a method that needs them.
    confidences : tuple of str
        0 to 100, 255 for none; each on the grid of its labels.
    probabilities : tuple of str
        Probability of every class in per cent, a band for each; each on the grid of its labels.
    """

    labels: tuple[str, ...]
    confidences: tuple[str, ...] = ()
    probabilities: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """All files to read."""
        return [*self.labels, *self.confidences, *self.probabilities]


@dataclass(frozen=True)
class MosaicOutputs:
    """The rasters to write, on one grid: files, or with `block_size` folders of files.

    Parameters
    ----------
    labels : Path
        The map. Its settings are written next to it, with ``.toml`` appended to the name.
    confidence : Path, optional
        Highest confidence of the inputs that agree with the label; for method ``probabilities`` the
        mean probability of the label.
    sources : Path, optional
        Which input the label comes from: its position, from 0.
    overwrite : bool
        Replace outputs that exist.
    stac : StacOptions, optional
        Write a STAC item beside the map.
    block_size : int, optional
        Write each raster as a folder of COGs of that many pixels along each side, a multiple of
        512, and an index over them; see `cafe_cli.mosaic.block_index`.
    resume : bool
        Continue with the blocks of an interrupted run.
    """

    labels: Path
    confidence: Path | None = None
    sources: Path | None = None
    overwrite: bool = False
    stac: StacOptions | None = None
    block_size: int | None = None
    resume: bool = False

    @property
    def paths(self) -> list[Path]:
        """The rasters, labels first."""
        return [path for path in (self.labels, self.confidence, self.sources) if path]

    @property
    def settings(self) -> Path:
        """The file of the settings."""
        return settings_path(index_path(self.labels) if self.block_size else self.labels)


def index_path(folder: Path) -> Path:
    """Return the virtual raster over the blocks in a folder, ``FOLDER/FOLDER.vrt``."""
    return folder / f"{folder.name}.vrt"


@dataclass(frozen=True)
class MosaicOptions:
    """How to join.

    Parameters
    ----------
    method : str
        A key of `cafe_cli.mosaic.methods.METHODS`.
    target : TargetGrid
        CRS, pixel size and extent.
    on_error : {"fail", "skip"}
        Where an input cannot be read: raise an error, or take it for nodata.
    jobs : int, optional
        Number of threads; one per core if None. The map does not depend on it.
    min_area : float
        Square metres; smaller regions are given to a neighbour. Confidence and sources stay those
        of the labels before.
    """

    method: str = "majority"
    target: TargetGrid = field(default_factory=TargetGrid)
    on_error: OnError = "fail"
    jobs: int | None = None
    min_area: float = 0.0
