"""What a report is made of, and what was found when it was inspected."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.errors import BandError
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.evaluation.points import are_points
from cafe_cli.evaluation.reference import Reference, inspect_reference
from cafe_cli.raster.grid import parse_crs
from cafe_cli.raster.joining import Stream
from cafe_cli.raster.mosaic_view import Member, covered_share, inspect_rasters
from cafe_cli.scenes.discovery import expand, expand_inputs
from cafe_cli.scenes.height_rasters import metres_per_unit

_OVERVIEW = 1600  # pixels along each side of the pictures of the whole map


@dataclass(frozen=True)
class ReportInput:
    """What a report shows; all rasters are files, folders, globs or @lists, read as one.

    Parameters
    ----------
    map : str
        Rasters of class ids.
    image : str, optional
        Orthophoto.
    heights : str, optional
        Surface model, or heights above ground.
    reference : str, optional
        Labels, rasters or vectors, or one vector file of points.
    confidence : str, optional
        Rasters of the label's probability in per cent.
    config : Config
        For the class table, the labels, the heights, the bands and the CRS.
    """

    map: str
    image: str | None = None
    heights: str | None = None
    reference: str | None = None
    confidence: str | None = None
    config: Config = field(default_factory=Config)

    @property
    def names(self) -> dict[str, str]:
        """The names that were given, by what they are."""
        given = {
            "map": self.map, "image": self.image, "heights": self.heights,
            "reference": self.reference, "confidence": self.confidence,
        }  # fmt: skip
        return {role: name for role, name in given.items() if name is not None}

    @property
    def files(self) -> list[str]:
        """All files to read."""
        return [path for name in self.names.values() for path in expand(name)]


class Subject:
    """The inspected rasters of a report.

    Raises
    ------
    InputError, BandError
        A file is missing, damaged or of the wrong kind.
    GridError
        An input does not overlap the map, or only one of the two has a CRS.
    LabelError
        The map has no class table.
    """

    def __init__(self, source: ReportInput) -> None:
        self.source, config = source, source.config
        self.map: LandCoverMap = inspect_map(source.map, config.crs)
        given = config.class_table if config.classes else None
        self.classes: ClassTable = class_table(self.map, given)
        self.grid = self.map.grid
        self.metres = 1.0
        self.image = self._inspect(source.image, "image", config.bands)
        self.heights = self._inspect(source.heights, "heights")
        if self.heights:
            self.metres = _check_heights(self.heights[0], config.height)

    def files_of(self, role: str) -> list[str]:
        """Return the files of an input, by what it is."""
        return expand(self.source.names[role])

    @property
    def factor(self) -> int:
        """Pixels of the map along a pixel of the pictures of the whole map."""
        return max(-(-max(self.grid.width, self.grid.height) // _OVERVIEW), 1)

    @cached_property
    def has_points(self) -> bool:
        """Whether the reference is points."""
        name = self.source.reference
        return name is not None and are_points(expand(name), self.source.config.labels)

    @cached_property
    def reference(self) -> Reference | None:
        """The reference on the grid of the map; None without one that covers ground."""
        name, config = self.source.reference, self.source.config
        if name is None or self.has_points:
            return None
        return inspect_reference(
            expand_inputs([name]), self.map, self.classes, config.labels, config.crs, on=self.grid
        )

    def _inspect(
        self, name: str | None, stream: Stream, bands: Sequence[int] | None = None
    ) -> list[Member]:
        if name is None:
            return []
        members = inspect_rasters(
            expand_inputs([name]), parse_crs(self.source.config.crs), self.grid, stream=stream,
            bands=bands,
        )  # fmt: skip
        covered_share(members, self.map.name, self.grid)
        return members


def _check_heights(member: Member, settings: HeightSettings) -> float:
    """Return metres per unit of the heights, of which there is one band."""
    if len(member.bands) != 1:
        raise BandError(
            f"{member.path} has {len(member.bands)} bands, heights have one; give a picture with "
            "--image"
        )
    return metres_per_unit(member, settings)
