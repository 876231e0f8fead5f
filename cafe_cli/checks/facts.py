"""Facts of a scene that a check reports, as dataclasses; `as_json` converts them for JSON.

Numbers are rounded as they are printed. Facts of a file that is missing or damaged stay None and
are left out of the JSON.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ImageFacts:
    """Facts of a sample of windows of an optical raster."""

    valid_percent: float


@dataclass(frozen=True)
class HeightFacts:
    """Facts of a decimated view of a height raster; `lowest` and `highest` are metres.

    Attributes
    ----------
    void_percent : float
        Share of the raster, whatever the image shows of it.
    largest_gap_percent : float
        Share of the raster that is its largest void without a touch of its border.
    """

    unit: str | None
    metres_per_unit: float
    lowest: float | str | None
    highest: float | str | None
    void_percent: float
    largest_gap_percent: float


@dataclass(frozen=True)
class RasterFacts:
    """The header of a raster, and facts of its pixels.

    Attributes
    ----------
    pixel : list of float
        Width and height of a pixel in units of the CRS.
    gsd : float or None
        Metres; None without a CRS.
    rotation : float
        Degrees.
    dtype : str or list of str
        One data type, or one per band if they differ.
    bands : list of str
        Colour of each band, and its description if it has one.
    mask : {"alpha", "mask", "nodata", "none"}
        How pixels without data are marked.
    block : list of int
        Height and width of the blocks of the file.
    overviews : list of int
        Decimation factors.
    pixels : ImageFacts or HeightFacts or None
        None for labels, or if the pixels cannot be read.
    """

    path: str
    width: int
    height: int
    crs: str
    pixel: list[float]
    gsd: float | None
    rotation: float
    dtype: str | list[str]
    bands: list[str]
    nodata: float | str | None
    mask: str
    compression: str | None
    block: list[int]
    overviews: list[int]
    pixels: ImageFacts | HeightFacts | None = None

    def as_json(self) -> dict[str, Any]:
        """Return header and pixels as one flat object."""
        facts = asdict(self)
        return facts | (facts.pop("pixels") or {})


@dataclass(frozen=True)
class VectorFacts:
    """A vector file with labels."""

    path: str

    def as_json(self) -> dict[str, Any]:
        """Return the path."""
        return asdict(self)


@dataclass(frozen=True)
class GridFacts:
    """The grid of a stream compared with that of the image.

    Attributes
    ----------
    overlap_percent : float
        Share of the image that the stream covers.
    shift_pixels : list of float or None
        Offset in columns and rows from the pixels of the image; None where the pixel size differs.
    gsd_ratio : float
        GSD of the stream divided by that of the image.
    """

    overlap_percent: float
    shift_pixels: list[float] | None
    gsd_ratio: float


@dataclass(frozen=True)
class AboveGroundFacts:
    """Percentiles of the heights above ground, metres."""

    p1: float
    p50: float
    p99: float


@dataclass(frozen=True)
class LabelFacts:
    """Facts of a sample of the labels: pixels per class name, and per value.

    Attributes
    ----------
    unknown, ignored : dict
        Values of no class, and values that are ignored; the most frequent 10,000 at most.
    nodata_of_classes : dict
        Values of a class that the raster declares as nodata.
    """

    looked_at_percent: float
    unlabelled_percent: float
    classes: dict[str, int]
    unknown: dict[str, int]
    ignored: dict[str, int]
    nodata_of_classes: dict[str, int]


@dataclass(frozen=True)
class RegistrationFacts:
    """Offset that aligns the heights with the image, in pixels of the image and in metres."""

    columns: float
    rows: float
    metres: float | str | None
    correlation_at_zero: float
    correlation_at_peak: float
    windows: int
    agree_percent: int
    shifted_percent: int


@dataclass
class StreamFacts:
    """Facts of one stream (optical, elevation, dtm or labels); filled while the check runs.

    Attributes
    ----------
    files : int
        Number of files; `rasters` has only those that were checked.
    without_height_percent : float or None
        Share of the valid pixels of the image, of those looked at, that have no height after small
        voids were filled. Models record the same share of their training tiles, and `cafe predict`
        compares it.
    """

    files: int
    rasters: list[RasterFacts | VectorFacts] = field(default_factory=list)
    grid: GridFacts | None = None
    above_ground: AboveGroundFacts | None = None
    without_height_percent: float | None = None
    labels: LabelFacts | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON knows."""
        facts: dict[str, Any] = {"files": self.files}
        facts["rasters"] = [raster.as_json() for raster in self.rasters]
        if self.grid is not None:
            facts |= asdict(self.grid)
        if self.above_ground is not None:
            facts["above_ground"] = asdict(self.above_ground)
        if self.without_height_percent is not None:
            facts["without_height_percent"] = self.without_height_percent
        return facts | (asdict(self.labels) if self.labels is not None else {})


@dataclass
class SceneFacts:
    """Facts of a scene; filled while the check runs.

    Attributes
    ----------
    streams : dict of StreamFacts
        By name: optical, elevation, dtm, labels; those that the scene has.
    size : (int, int) or None
        Width and height of the grid.
    compared : bool
        Whether image and heights were compared.
    registration : RegistrationFacts or None
        None if no window has a clear offset.
    """

    streams: dict[str, StreamFacts] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    compared: bool = False
    registration: RegistrationFacts | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON knows."""
        facts: dict[str, Any] = {name: s.as_json() for name, s in self.streams.items()}
        if self.size is not None:
            facts["grid"] = dict(zip(("width", "height"), self.size, strict=True))
        if self.compared:
            facts["registration"] = asdict(self.registration) if self.registration else None
        return facts


def json_number(value: float | None) -> float | str | None:
    """Return a number for JSON: an integer if it is whole, and NaN as a text."""
    if value is None:
        return None
    if not math.isfinite(value):
        return str(float(value))
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)
