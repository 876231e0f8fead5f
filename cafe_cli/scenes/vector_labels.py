"""Labels from the features of vector files, rasterised window by window."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError
from cafe_cli.findings import warn_once
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.label_coding import Decoded, LabelTally
from cafe_cli.scenes.label_values import (
    IGNORE,
    Key,
    find_class,
    label_key,
    list_classes,
    unlabelled_class,
    value_to_class,
)
from cafe_cli.vector.features import Features, read_features, refuse_empty
from cafe_cli.vector.geometry import subdivide
from cafe_cli.vector.rasterize import rasterize_indices


class VectorLabels:
    """The features of vector files on the grid of a scene; threads may share it.

    Attributes
    ----------
    counts : Counter
        Number of features per attribute value, ``(none)`` without one.
    """

    def __init__(self, features: Sequence[Features], extent: Window) -> None:
        keys = [label_key(value) for file in features for value in file.values]
        self.counts: Counter[int | str] = Counter(keys)
        self._extent = extent
        self._values = list(self.counts)
        codes = {value: code for code, value in enumerate(self._values)}
        every = [np.array([], object), *(file.geometries for file in features)]
        self._pieces, source = subdivide(np.concatenate(every))
        self._codes = np.array([codes[key] for key in keys], np.intp)[source]
        self._tree = shapely.STRtree(self._pieces)

    @classmethod
    def of(
        cls, paths: Sequence[str], grid: Grid, settings: LabelSettings, name: str = "the raster"
    ) -> "VectorLabels":
        """Read the features of files, in their order; `name` is the scene in messages.

        Raises
        ------
        InputError
            See `cafe_cli.vector.features.read_features`; or no file has a feature in the scene,
            unless ``unlabelled`` ground has a class and the files cover the scene.
        """
        attribute, layer = settings.attribute, settings.layer
        files = [
            read_features(path, grid, attribute, layer, name=name, required=False) for path in paths
        ]
        empty = [file.path for file in files if not len(file.geometries)]
        if len(empty) == len(files):
            for path in paths:
                refuse_empty(path, grid, layer, name, gaps=settings.unlabelled != IGNORE)
        elif empty:
            warn_once(name, f"no feature of {', '.join(empty)} lies inside {name}")
        return cls(files, grid.extent)

    def read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Return the class ids of a window, 255 outside the scene.

        Raises
        ------
        ConfigError
            ``labels.unlabelled`` or ``labels.priority`` names no class.
        InputError
            See `value_to_class`.
        """
        ids = np.full((window.height, window.width), NODATA, np.uint8)
        inside = window.intersection(self._extent)
        if inside is None:
            return Decoded(ids)
        decoded = self._read(inside, classes, settings)
        ids[inside.slices(window)] = decoded.ids
        return Decoded(ids, decoded.tally)

    def unknown_values(self, classes: ClassTable, settings: LabelSettings) -> list[Key]:
        """Return the values of all features that no class has, wherever the features lie."""
        known = value_to_class(classes, settings)
        return [value for value in self.counts if known.find(value) is None]

    def _read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        hits = np.sort(self._tree.query(shapely.box(*window.bounds)))
        used, codes = np.unique(self._codes[hits], return_inverse=True)
        values = [self._values[code] for code in used.tolist()]
        known = value_to_class(classes, settings)
        classified = [known.find(value) for value in values]
        ids = np.array([NODATA if i is None else i for i in classified], np.uint8)
        order = np.argsort(_priorities(classes, settings)[ids[codes]], kind="stable")
        topmost = rasterize_indices(self._pieces[hits[order]], window, settings.all_touched)
        # Where there is no feature, -1 indexes the last element: the class of unlabelled ground.
        value_index = np.append(codes[order], len(values))[topmost]
        counts = np.bincount(value_index.ravel(), minlength=len(values) + 1).tolist()
        tally = LabelTally()
        for value, class_id, n in zip(values, classified, counts, strict=False):
            if n and class_id is None:
                tally.unknown[value] = n
            elif n and class_id == NODATA:
                tally.ignored[value] = n
        unlabelled = np.uint8(unlabelled_class(classes, settings))
        return Decoded(np.append(ids, unlabelled)[value_index], tally)


def _priorities(classes: ClassTable, settings: LabelSettings) -> NDArray[np.intp]:
    """Return the priority of each class id, 0 to 255; features of higher priority lie on top."""
    priorities = np.zeros(NODATA + 1, np.intp)
    for rank, name in enumerate(reversed(settings.priority), start=1):
        if (class_id := find_class(name, classes)) is None:
            raise ConfigError(
                f"labels.priority names {name!r}, which is not a class; {list_classes(classes)}"
            )
        priorities[class_id] = rank
    return priorities
