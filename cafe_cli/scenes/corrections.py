"""Corrections: newer labels on top of older ones, which they replace where they have a class."""

from collections.abc import Sequence

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.label_coding import Decoded, LabelTally
from cafe_cli.scenes.label_values import IGNORE, Key
from cafe_cli.scenes.raster_labels import RasterLabels
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.vector.features import read_features


class CorrectedLabels:
    """Labels of a scene with corrections on top. Not thread-safe.

    Parameters
    ----------
    labels : RasterLabels or VectorLabels
        The older labels.
    corrections : sequence of RasterLabels or VectorLabels
        In the order in which they are laid on top: the last one wins.
    """

    def __init__(
        self,
        labels: RasterLabels | VectorLabels,
        corrections: Sequence[RasterLabels | VectorLabels],
    ) -> None:
        self._labels, self._corrections = labels, corrections

    def read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Return the class ids of a window; errors as those of the labels beneath."""
        below = self._labels.read(window, classes, settings)
        ids, tally = below.ids.copy(), LabelTally()
        tally.add(below.tally)
        # Where corrections have nothing, the older labels stay, whatever unlabelled ground is.
        only_given = settings.model_copy(update={"unlabelled": IGNORE})
        for layer in self._corrections:
            above = layer.read(window, classes, only_given)
            given = above.ids != NODATA
            ids[given] = above.ids[given]
            tally.add(above.tally)
            tally.corrected += int(given.sum())
        return Decoded(ids, tally)

    def unknown_values(self, classes: ClassTable, settings: LabelSettings) -> list[Key]:
        """Return the values of all features, older and newer ones, that no class has."""
        layers = (self._labels, *self._corrections)
        vectors = (layer for layer in layers if isinstance(layer, VectorLabels))
        return [value for layer in vectors for value in layer.unknown_values(classes, settings)]


def read_vector_corrections(
    path: str, grid: Grid, settings: LabelSettings, name: str
) -> VectorLabels:
    """Read the features of a file of corrections, of which none may lie in the scene.

    The file has one layer: ``labels.layer`` is that of the older labels. Errors as those of
    `read_features`.
    """
    features = read_features(path, grid, settings.attribute, name=name, required=False)
    return VectorLabels([features], grid.extent)
