"""What to predict, from what, and what to write: plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import Unit
from cafe_cli.raster.vrt import Product

QUALITY = ClassTable(
    (LandClass(0, "image and heights", "#1a9850"), LandClass(1, "image only", "#fdae61"))
)


@dataclass(frozen=True)
class PredictInput:
    """What to predict from.

    Parameters
    ----------
    optical : tuple of str
        Orthophotos, joined into one scene.
    elevation, dtm : tuple of str
        Surface models and terrain models.
    bands : tuple of int, optional
        Bands of the optical raster, from 1, in the model's order; all but alpha if None.
    height_unit, height_nodata : optional
        Replace those of the model's training data.
    crs : str, optional
        Of rasters that do not say theirs.
    gsd : {'own', 'model'}
        Predict on the optical raster's grid, or resample to the model's ground sampling distance.
    aoi : str, optional
        Vector file; only what lies in its polygons is predicted.
    bbox : tuple of float, optional
        Left, bottom, right, top; only what lies within is predicted.
    bbox_crs : str, optional
        CRS of `bbox`; that of the optical raster if None.
    """

    optical: tuple[str, ...]
    elevation: tuple[str, ...] = ()
    dtm: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None
    height_unit: Unit | None = None
    height_nodata: float | None = None
    crs: str | None = None
    gsd: Literal["own", "model"] = "own"
    aoi: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str | None = None

    @property
    def names(self) -> list[str]:
        """All files that are read."""
        return [*self.optical, *self.elevation, *self.dtm, *([self.aoi] if self.aoi else [])]


@dataclass(frozen=True)
class PredictOutput:
    """Rasters to write: COG, uint8, nodata 255, on the grid of the optical raster.

    Parameters
    ----------
    labels : Path
        Class ids; ``.toml`` is appended to its name for the settings it was made with.
    confidence : Path, optional
        Probability of the label in per cent.
    probabilities : Path, optional
        Of all classes in per cent, a band for each.
    quality : Path, optional
        What a label rests on: 0 image and heights, 1 the image only.
    options : mapping
        Creation options of GDAL's COG driver, laid over ours.
    overwrite : bool
        Replace outputs that exist.
    resume : bool
        Go on with what an interrupted run has left.
    """

    labels: Path
    confidence: Path | None = None
    probabilities: Path | None = None
    quality: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    resume: bool = False

    @property
    def paths(self) -> dict[str, Path]:
        """The files by the name of what they hold, labels first."""
        names = ("labels", "confidence", "probabilities", "quality")
        return {name: path for name in names if (path := getattr(self, name))}

    def inside(self, name: str) -> "PredictOutput":
        """Return the files of a name in these, which are folders."""
        files: dict[str, Any] = {what: folder / name for what, folder in self.paths.items()}
        return replace(self, **files)

    def products(self, classes: ClassTable) -> list[Product]:
        """Return what the files hold."""
        kinds: dict[str, tuple[int, ClassTable | None, tuple[str, ...]]] = {
            "labels": (1, classes, ()),
            "confidence": (1, None, ("confidence in per cent",)),
            "probabilities": (len(classes), None, tuple(f"{n} in per cent" for n in classes.names)),
            "quality": (1, QUALITY, ()),
        }
        return [Product(name, path, *kinds[name]) for name, path in self.paths.items()]


@dataclass(frozen=True)
class ComputeOptions:
    """Where to compute.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N``, a list of them, or ``all`` GPUs.
    jobs : int, optional
        Threads that read; one per core if None.
    """

    device: str = "auto"
    jobs: int | None = None
