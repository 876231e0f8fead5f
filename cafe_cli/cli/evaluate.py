"""``cafe evaluate``: score maps against reference labels, and measure the area of their classes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import click

from cafe_cli.cli.cluster_options import cluster_options, take_cluster
from cafe_cli.cli.help import complete_files, option, option_group
from cafe_cli.cli.options import (
    PATH,
    NamesCommand,
    config_options,
    file_option,
    floats,
    json_option,
    overwrite_option,
    read_config,
)
from cafe_cli.errors import CafeError
from cafe_cli.redaction import redact_all

if TYPE_CHECKING:
    from cafe_cli.classes import ClassTable
    from cafe_cli.cluster.job import ClusterOptions
    from cafe_cli.config.schema import Config, LabelSettings
    from cafe_cli.evaluation.areas import Areas
    from cafe_cli.evaluation.counting import CountSettings
    from cafe_cli.evaluation.evaluate import RasterComparison
    from cafe_cli.evaluation.pooled import PooledScores
    from cafe_cli.system.batches import Executor

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS = get_args(Split)


EXAMPLES = {
    "a map and reference labels": "cafe evaluate town.tif sample_data/town_labels.tif",
    "points of cafe sample: accuracies and areas with 95 % intervals":
        "cafe evaluate map.tif points.gpkg --areas areas.csv",
    "all maps of the test ground; the exit code is the verdict":
        "cafe evaluate maps/ -c site.toml --split test --min-miou 0.6",
    "two maps, away from the boundaries of the classes":
        "cafe evaluate map.tif labels.tif --erode 3 --compare old.tif",
}  # fmt: skip


@click.command(cls=NamesCommand, examples=EXAMPLES)
@click.argument("maps", metavar="MAP", shell_complete=complete_files)
@click.argument("reference", required=False, shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--compare", metavar="MAP", multiple=True,
                help="Another map, to score and compare with MAP; may be repeated."),
    file_option("--by-height", metavar="HEIGHTS",
                help="Also score by height above ground, read from this raster (DSM or nDSM)."),
    config_options,
)  # fmt: skip
@option_group(
    "Outputs",
    option("--areas", type=PATH, metavar="FILE",
           help="Write the area of each class of MAP: .csv or .json."),
    overwrite_option,
    json_option,
)  # fmt: skip
@option_group(
    "Labels",
    option("--split", type=click.Choice(SPLITS),
           help="Score only the ground of this split of the config's scenes."),
    option("--partial", is_flag=True, help="Leave out scenes that lack a map or a reference."),
    option("--ignore", type=int, multiple=True, metavar="VALUE",
           help="Reference value without a class; may be repeated."),
    option("--ignore-class", multiple=True, metavar="CLASS",
           help="Class whose ground is not scored, e.g. clutter; may be repeated."),
    option("--erode", type=click.FloatRange(min=0), default=0, metavar="PIXELS",
           help="Leave out reference pixels within this distance of another class."),
)  # fmt: skip
@option_group(
    "Scores",
    option("--by-distance", callback=floats, metavar="PIXELS,...",
           help="Also score by distance to the class boundaries, in groups with these limits."),
    option("--height-limits", callback=floats, default="0.5,2,5,10,20", metavar="METRES,...",
           help="Limits of the groups of --by-height."),
    option("--block", type=click.IntRange(min=1), metavar="PIXELS", show_default="100 blocks",
           help="Side of the blocks of the bootstrap for the 95 % intervals."),
    option("--kappa", is_flag=True, help="Also print Cohen's kappa."),
    option("--min-miou", type=float, metavar="IOU",
           help="Exit with code 1 if the mean IoU is lower."),
)  # fmt: skip
@cluster_options
def evaluate(
    maps: str, reference: str | None, config_path: Path | None, assignments: tuple[str, ...],
    split: Split | None, partial: bool, ignore: tuple[int, ...], ignore_class: tuple[str, ...],
    erode: float, by_distance: tuple[float, ...] | None, by_height: str | None,
    height_limits: tuple[float, ...], block: int | None, compare: tuple[str, ...],
    areas: Path | None, overwrite: bool, kappa: bool, as_json: bool, min_miou: float | None,
    **cluster: Any,
) -> None:  # fmt: skip
    """Compare a map with reference labels; grids may differ.

    MAP and REFERENCE are files, folders, quoted globs or @list.txt, each read as one raster;
    REFERENCE may also be a vector file. With {id} in both names, scenes are scored one by one and
    pooled. Without REFERENCE, the labels of the config's scenes are the reference, and MAP is a
    folder of maps named like their orthophotos, or a pattern. With --areas and no REFERENCE,
    areas are measured and nothing is scored.

    Points that cafe sample drew yield accuracies and areas with 95 % intervals; for other
    references, the intervals come from a bootstrap of blocks. Class names come from the map, or
    from the config if one is given.
    """
    config = read_config(config_path, assignments)
    scoring = areas is None or any(x is not None for x in (reference, split, min_miou))
    _check_usage(reference, split, areas, scoring and config.scenes is None)
    from cafe_cli.evaluation.counting import CountSettings
    from cafe_cli.evaluation.points import are_points
    from cafe_cli.scenes.discovery import expand

    counting = CountSettings(
        erode=erode, distances=by_distance or (), heights=by_height, height_limits=height_limits,
        height_settings=config.height, block=block,
    )  # fmt: skip
    task = _Task(
        maps, reference, config, split, partial, ignore, ignore_class, compare, counting, kappa,
        as_json, take_cluster(cluster),
    )  # fmt: skip
    files = expand(reference) if reference and scoring else []
    measure = _measure_by_points if are_points(files, config.labels) else _measure
    result: dict[str, Any]
    with _claimed(areas, [name for name in (maps, reference) if name], overwrite):
        result = measure(task, areas, scoring)
    if as_json:
        click.echo(json.dumps(redact_all(result), indent=1))
    if min_miou is not None and not (miou := result["miou"] or 0.0) >= min_miou:
        raise CafeError(f"mean IoU {miou:.4f} is below --min-miou {min_miou}")


@dataclass(frozen=True)
class _Task:
    """What the command line asks for."""

    maps: str
    reference: str | None
    config: "Config"
    split: Split | None
    partial: bool
    ignore: tuple[int, ...]
    ignore_class: tuple[str, ...]
    compare: tuple[str, ...]
    counting: "CountSettings"
    kappa: bool
    quiet: bool
    cluster: "ClusterOptions | None"

    @property
    def classes(self) -> "ClassTable | None":
        """The class table of the config, if it has one."""
        return self.config.class_table if self.config.classes else None

    @property
    def labels(self) -> "LabelSettings":
        """How the reference encodes the classes."""
        from cafe_cli.scenes.label_values import ignore_more

        return ignore_more(self.config.labels, self.classes, self.ignore)


def _check_usage(
    reference: str | None, split: str | None, areas: Path | None, lacks_labels: bool
) -> None:
    """Refuse options that do not go together; `lacks_labels` if no config names references."""
    if reference is not None and split is not None:
        raise click.UsageError(
            "--split takes the labels of the config's scenes as references: leave out REFERENCE"
        )
    if reference is None and lacks_labels:
        raise click.UsageError(
            "Missing argument 'REFERENCE', or a config with [scenes] (-c), or --areas FILE alone"
        )
    if areas is not None and areas.suffix.lower() not in (".csv", ".json"):
        raise click.UsageError(f"--areas {areas}: name a .csv or .json file")


@contextmanager
def _claimed(output: Path | None, inputs: Sequence[str], overwrite: bool) -> Iterator[None]:
    """Lock the file of areas against other runs, if one is named."""
    from cafe_cli.scenes.discovery import expand
    from cafe_cli.system.atomic_write import check_outputs
    from cafe_cli.system.output_group import claim_outputs

    if output is None:
        yield
        return
    check_outputs([output], [file for name in inputs for file in expand(name)], overwrite)
    with claim_outputs([output], overwrite):
        yield


def _measure(task: _Task, areas: Path | None, scoring: bool) -> dict[str, Any]:
    """Measure the areas of a map, score it, or both; return the values of ``--json``."""
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cluster.batches import executor_on
    from cafe_cli.evaluation.areas import measure_areas

    result: dict[str, Any] = {}
    with executor_on(task.cluster) as run:
        if areas is not None:
            with progress_bar("areas") as progress:
                measured = measure_areas(
                    task.maps, classes=task.classes, crs=task.config.crs, progress=progress, run=run
                )
            result["areas"] = _write_areas(measured, areas, task)
        return _score(task, run).as_json(task.kappa) | result if scoring else result


def _measure_by_points(task: _Task, areas: Path | None, scoring: bool) -> dict[str, Any]:
    """Score a map, or several, at points, and estimate areas if asked to."""
    from cafe_cli.cli.accuracy_tables import show_differences, show_estimates
    from cafe_cli.cli.console import number, progress_bar, say, show_scores
    from cafe_cli.evaluation.points import evaluate_points

    if task.reference is None:
        raise AssertionError("points are a reference")
    if task.counting.erode or task.counting.distances or task.counting.heights:
        raise click.UsageError(
            "--erode, --by-distance and --by-height need a reference that covers ground, "
            f"{task.reference} holds points"
        )
    if task.cluster is not None:
        raise click.UsageError(
            "--scheduler and --workers need a reference that covers ground, "
            f"{task.reference} holds points"
        )
    with progress_bar("evaluate") as progress:
        found = evaluate_points(
            [task.maps, *task.compare], task.reference, classes=task.classes, labels=task.labels,
            ignored=task.ignore_class, crs=task.config.crs, progress=progress,
        )  # fmt: skip
    for name, scores in found.maps.items() if not task.quiet else ():
        title = f"{name} at the points of {task.reference}"
        if scores.estimates is None:
            show_scores(scores.scores, title)
        show_estimates(scores, title)
        if task.kappa:
            say(f"kappa {number(scores.kappa)}")
    if not task.quiet:
        show_differences(found.differences, task.maps)
    result = found.as_json(task.kappa)
    if areas is not None:
        result["areas"] = _write_areas(found.areas(), areas, task)
    return result


def _score(task: _Task, run: "Executor") -> "RasterComparison | PooledScores":
    """Score maps against whole references; print tables unless `quiet`."""
    from cafe_cli.cli.accuracy_tables import show_detail, show_differences
    from cafe_cli.cli.console import progress_bar, show_scenes, show_scores
    from cafe_cli.evaluation.detail import DetailedScores
    from cafe_cli.evaluation.evaluate import evaluate_in_detail
    from cafe_cli.evaluation.pooled import PooledScores, evaluate_pairs, evaluate_scenes
    from cafe_cli.scenes.discovery import placeholders_of

    maps, reference, config = task.maps, task.reference, task.config
    against = f"the {task.split or 'labelled'} ground of the scenes"
    labels: dict[str, Any] = {"classes": task.classes, "labels": task.labels, "crs": config.crs}
    counting: dict[str, Any] = {"ignored": task.ignore_class, "settings": task.counting}
    found: RasterComparison | PooledScores
    with progress_bar("evaluate") as progress:
        if reference is None:
            found = evaluate_scenes(
                maps, config, split=task.split, ignore=task.ignore, others=task.compare,
                **counting, partial=task.partial, progress=progress, run=run,
            )  # fmt: skip
        elif placeholders_of(maps) or placeholders_of(reference):
            found = evaluate_pairs(
                maps, reference, others=task.compare, **labels, **counting, partial=task.partial,
                progress=progress, run=run,
            )  # fmt: skip
        else:
            found = evaluate_in_detail(
                [maps, *task.compare], reference, **labels, **counting, progress=progress, run=run
            )
    if task.quiet:
        return found
    for name, one in found.maps.items():
        detailed = one if isinstance(one, DetailedScores) else one.pooled
        show_scores(detailed.scores, f"{name} against {reference or against}")
        show_detail(detailed, task.kappa)
        if isinstance(found, PooledScores):
            show_scenes({scene: row.scores for scene, row in found.maps[name].scenes.items()})
    show_differences(found.differences, maps)
    return found


def _write_areas(areas: "Areas", output: Path, task: _Task) -> dict[str, Any]:
    """Write the areas of a map's classes; print a table unless `quiet`."""
    from cafe_cli.cli.console import say, show_areas
    from cafe_cli.system.atomic_write import write_text

    is_json = output.suffix.lower() == ".json"
    values = areas.as_json()
    write_text(output, json.dumps(redact_all(values), indent=1) if is_json else areas.as_csv())
    if not task.quiet:
        if not any(row.estimate for row in areas.classes.values()):  # else they are shown already
            show_areas(areas, task.maps)
        say(f"wrote {output}")
    return values
