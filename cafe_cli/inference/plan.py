"""The plan of a prediction of one scene, made before a pixel is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cafe_cli.config.provenance import read_beside
from cafe_cli.errors import OutputError
from cafe_cli.inference.ensemble import Engine
from cafe_cli.inference.job import PredictInput, PredictOutput
from cafe_cli.inference.strip_store import strips_folder
from cafe_cli.inference.tiling import Strip, WindowGrid
from cafe_cli.raster.acquired import Acquired
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.window import Window
from cafe_cli.scenes.heights import fill_margin
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.vector.area_of_interest import Area


@dataclass(frozen=True)
class PredictPlan:
    """The work of one scene, which `Predictor.run` does and a dry run reports.

    Attributes
    ----------
    source : PredictInput
    outputs : PredictOutput
    inspection : SceneInspection
    area : Area
        Area of interest.
    windows : WindowGrid
    strips : list of Strip
        Those of the area, or of a share of it.
    engine : {"torch", "onnx"}
    fingerprint : mapping
        Everything that the pixels of the outputs depend on, as plain values by readable names.
    inputs : InputFiles
        The files behind the names of the source, before any was read.
    acquired : Acquired or None
        When the images were taken; None unless a STAC item is written.
    """

    source: PredictInput
    outputs: PredictOutput
    inspection: SceneInspection
    area: Area
    windows: WindowGrid
    strips: list[Strip]
    engine: Engine
    fingerprint: Mapping[str, object]
    inputs: InputFiles
    acquired: Acquired | None = None

    @property
    def window_count(self) -> int:
        """Number of windows, empty ones included."""
        return sum(strip.window_count for strip in self.strips)

    @cached_property
    def extent(self) -> Window:
        """The pixels of the scene that the outputs cover: the smallest window with all strips."""
        return Window.hull([strip.extent for strip in self.strips])

    @property
    def target(self) -> Grid:
        """Grid of the outputs."""
        return self.inspection.grid.at(self.extent)

    @property
    def reach(self) -> int:
        """Pixels of the scene around a pixel that its label may depend on, at most."""
        heights, grid = self.inspection.heights, self.inspection.grid
        return self.windows.size + (fill_margin(heights.settings.fill, grid) if heights else 0)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the bytes of the outputs depend on."""
        values = {**self.fingerprint, "options": dict(self.outputs.options)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether the outputs exist already, from a run with the same digest that read it all."""
        if strips_folder(self.outputs.labels).exists():  # that run was killed before its end
            return False
        if not all(path.exists() for path in self.outputs.paths.values()):
            return False
        made = read_beside(self.outputs.labels)
        return made.get("made_of") == self.digest and "skipped" not in made

    def check_resume(self) -> None:
        """Refuse to resume if the outputs are those of a complete run with another digest.

        Raises
        ------
        OutputError
            There are such outputs, and they may not be overwritten.
        """
        outputs = self.outputs
        if not outputs.resume or outputs.overwrite or self.is_complete:
            return
        if outputs.labels.exists() and not strips_folder(outputs.labels).exists():
            lacking = "skipped" in read_beside(outputs.labels)
            why = (
                "is incomplete, since files could not be read"
                if lacking
                else ("was made of other inputs or with other settings")
            )
            raise OutputError(
                f"{outputs.labels} exists and {why}; pass --overwrite to make it again"
            )

    def in_outputs(self, window: Window) -> Window:
        """Return a window of the scene in pixel coordinates of the outputs."""
        return window.relative_to(self.extent)
