"""``cafe export``: a model as an ONNX file, for cafe itself or for another program."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cafe_cli.config.choices import ExportTarget
from cafe_cli.config.provenance import dump_settings, settings_path
from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.exporting.comparison import (
    CLOSE,
    NEEDED,
    Agreement,
    compare_for_cafe,
    compare_for_tool,
)
from cafe_cli.exporting.eight_bit import EightBitNetwork
from cafe_cli.exporting.tools import IMAGE, TITLES, ToolInput, plan_input, tool_metadata
from cafe_cli.exporting.windows import drawn_windows, scene_windows
from cafe_cli.findings import Report
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.job import PredictInput
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.model.distribution import normal_distribution
from cafe_cli.model.onnx_export import add_metadata, describe, export_onnx, require_onnx, trace
from cafe_cli.model.onnx_file import PROBABILITIES, available, is_onnx, open_session
from cafe_cli.model.stored import read_card, read_model, sha256
from cafe_cli.scenes.scene import Patch, find_scene_ground, open_scene
from cafe_cli.system.atomic_write import check_outputs
from cafe_cli.system.output_group import claim_outputs, finish_replacing, replace_together
from cafe_cli.text import percent

log = logging.getLogger("cafe")

_SUFFIX = ".onnx"
_ACROSS = 2  # windows along each side of a scene
_LARGEST = 1024  # pixels along each side of windows of which several are compared
_TOGETHER = 2  # windows in a batch, where the other program may choose


@dataclass(frozen=True)
class ExportOptions:
    """For whom a file is made, and how.

    Parameters
    ----------
    target : {"cafe", "deepness", "geodeep"}
        The program that is to run it.
    logits : bool
        Return logits instead of probabilities; for programs of your own.
    window, overlap : int, optional
        Side of the windows of another program and what neighbours share, in pixels.
    heights : bool
        Whether Deepness is to feed heights to a model that knows them.
    """

    target: ExportTarget = "cafe"
    logits: bool = False
    window: int | None = None
    overlap: int | None = None
    heights: bool = True


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it compares with the network.

    Attributes
    ----------
    windows : str
        The windows of the comparison.
    equal : Agreement
        Labels of the file and of the network, from the same input.
    kept : Agreement or None
        Labels of the file and of the network with heights as they are; None without a scene, or
        where the file gets the same heights.
    tool : ToolInput or None
        The input; None for a file for cafe.
    size : int
        Bytes.
    """

    windows: str
    equal: Agreement
    kept: Agreement | None
    tool: ToolInput | None
    size: int


def export(
    model: Path,
    output: Path,
    options: ExportOptions | None = None,
    scene: PredictInput | None = None,
    *,
    overwrite: bool = False,
) -> ExportResult:
    """Write a model as an ONNX file that describes itself, if it computes the same labels.

    Parameters
    ----------
    model : Path
        A file of `cafe train`.
    output : Path
        ``.onnx``; its settings are written to a file with ``.toml`` appended to the name.
    options : ExportOptions, optional
    scene : PredictInput, optional
        Rasters to compare the labels on; by default windows are drawn with the colours and heights
        of the training.
    overwrite : bool
        Replace an output that exists.

    Raises
    ------
    ConfigError
        The other program cannot feed the model, an option does not fit it, ``onnx`` or
        ``onnxruntime`` is not installed, the encoder cannot be exported, or labels differ.
    ModelFileError
        The model cannot be read.
    InputError, GridError, BandError
        The scene cannot be read, or does not fit the model.
    OutputError
        The output exists or cannot be written.
    """
    options = options or ExportOptions()
    finish_replacing([output])
    _, planned = _plan(model, output, options, scene, overwrite=overwrite)
    paths = [output, settings_path(output)]
    with claim_outputs([output], overwrite):
        network, card = model_file.load(model)
        patches, seen = _windows(model, network, card, scene, planned)
        graph, found, kept = _make(network, card, options, planned, patches, output)
        _check(found, output, seen)
        with replace_together(paths, overwrite) as new:
            new[output].write_bytes(graph)
            made = _settings_text(model, options, scene, planned, found, seen)
            new[settings_path(output)].write_text(made, encoding="utf-8")
    if scene is None or not (scene.elevation and card.has_height):
        kept = None  # drawn windows do not tell what heights are worth
    if planned and card.has_height and not planned.heights:
        _warn_about_heights(options.target, kept)
    return ExportResult(seen, found, kept, planned, len(graph))


def dry_run(
    model: Path,
    output: Path,
    options: ExportOptions | None = None,
    scene: PredictInput | None = None,
    *,
    overwrite: bool = False,
) -> Report:
    """Check what `export` checks before it loads the weights; report it. Arguments as there."""
    report = Report("export")
    with report.capture_errors():
        options = options or ExportOptions()
        card, planned = _plan(model, output, options, scene, overwrite=overwrite)
        report.facts |= {
            "output": str(output),
            "for": TITLES[options.target],
            "classes": list(card.classes.names),
            "bands": list(planned.bands if planned else card.band_names),
        }
        if planned:
            report.facts["windows"] = {"size": planned.window, "overlap": planned.overlap}
    return report


def _plan(
    model: Path,
    output: Path,
    options: ExportOptions,
    scene: PredictInput | None,
    *,
    overwrite: bool,
) -> tuple[ModelCard, ToolInput | None]:
    """Check everything that needs no weights; return the card, and the input of a tool."""
    require_onnx()
    if not available():
        raise ConfigError("exporting a model needs: pip install '.[onnx]'")
    if is_onnx(model):
        raise ConfigError(
            f"{model} is already an exported model: name the .safetensors file that it was made "
            "from"
        )
    if output.suffix.lower() != _SUFFIX:
        raise ConfigError(f"{output}: the name of an ONNX file ends with {_SUFFIX}")
    paths = [str(model), *(scene.paths if scene else ())]
    check_outputs([output], paths, overwrite, {settings_path(output): output})
    card = read_card(model)
    if options.target == "cafe":
        if options.window is not None or options.overlap is not None:
            raise ConfigError(
                "a file for cafe takes windows of any size: leave out --window and --overlap, or "
                "name the program (--for)"
            )
        if not options.heights:
            raise ConfigError("--no-heights is for files for Deepness: add --for deepness")
        return card, None
    if options.logits:
        raise ConfigError(
            f"{TITLES[options.target]} needs probabilities, since it sets scores below 0 to 0: "
            "leave out --logits"
        )
    return card, plan_input(card, options.target, options.window, options.overlap, options.heights)


def _make(
    network: CaFE,
    card: ModelCard,
    options: ExportOptions,
    planned: ToolInput | None,
    patches: Sequence[Patch],
    output: Path,
) -> tuple[bytes, Agreement, Agreement | None]:
    """Return the file and how it compares with the network, see `ExportResult`."""
    if planned is None:
        graph = export_onnx(network, card, softmax=not options.logits)
        session = partial(open_session, graph, output)
        return graph, compare_for_cafe(network, patches, session, options.logits), None
    module = EightBitNetwork(network.deployed(), planned.order, planned.heights).eval()
    graph = _export_tool(module, planned, describe(network, card) | tool_metadata(card, planned))
    together = planned.batch or (_TOGETHER if planned.window <= _LARGEST else 1)
    session = partial(open_session, graph, output)
    return graph, *compare_for_tool(module, patches, together, session)


def _window_for_cafe(card: ModelCard) -> int:
    """Return the side of windows like those of the training, in which attention is local."""
    reach = card.architecture.attention + 2 * STRIDE if card.architecture.attention else 0
    return min(max(-(-card.window // STRIDE) * STRIDE, reach), _LARGEST)


def _windows(
    model: Path,
    network: CaFE,
    card: ModelCard,
    source: PredictInput | None,
    planned: ToolInput | None,
) -> tuple[Sequence[Patch], str]:
    """Return windows to compare labels on, and say what they are."""
    side = planned.window if planned else _window_for_cafe(card)
    across = _ACROSS if side <= _LARGEST else 1  # a pass over larger ones takes minutes
    if source is None:
        known = card.training_pixels or normal_distribution(
            read_model(model).statistics, card.dtype
        )
        patches = [*drawn_windows(known, card.dtype, side, across**2, card.height.planes)]
        return patches, f"{len(patches)} windows drawn at random, with colours of the training data"
    ensemble = Ensemble.load([model])
    inspection, area = SceneInput.of(source, ensemble).inspect(ensemble)
    if planned and inspection.dtype != "uint8":
        raise ConfigError(
            f"{inspection.files.name} is {inspection.dtype}, but the file is for a program that "
            "feeds 8 bits: give an 8-bit orthophoto, or leave out --optical"
        )
    with open_scene(inspection, find_scene_ground(inspection)) as scene:
        patches = [*scene_windows(scene, area.extent, side, across)]
    return patches, f"{_count(patches)} of {inspection.files.name}"


def _count(patches: Sequence[Patch]) -> str:
    return f"{len(patches)} window{'s'[: len(patches) > 1]}"


def _export_tool(module: EightBitNetwork, planned: ToolInput, metadata: Mapping[str, str]) -> bytes:
    """Return the ONNX file for another program; its windows are of one size."""
    image = torch.zeros(planned.batch or 1, module.channels, planned.window, planned.window)
    free = {} if planned.batch else {0: "batch"}
    axes = {IMAGE: free, PROBABILITIES: free}
    network = module.network.architecture
    graph = trace(module, (image,), [IMAGE], PROBABILITIES, axes, network.optical_encoder)
    shape = (planned.batch or "batch", network.classes, planned.window, planned.window)
    return add_metadata(graph, metadata, shape)


def _check(found: Agreement, output: Path, windows: str) -> None:
    if not found.is_enough:
        raise ConfigError(
            f"{output} is not written: on {windows}, {100 * found.share:.2f} % of the labels of "
            f"ONNX Runtime equal those of torch ({100 * NEEDED:.2f} % are needed), and "
            f"probabilities differ by up to {found.largest:.2g} ({CLOSE:g}); use the .safetensors "
            "file, and report the encoder"
        )


def _warn_about_heights(target: ExportTarget, kept: Agreement | None) -> None:
    cost = "give --optical and --elevation to see how many labels that changes"
    if kept:
        cost = f"that changes {percent(1 - kept.share)} of the labels"
    log.warning(
        "the model was trained with heights, but %s passes none: expect a poorer map; %s; a "
        "model trained without heights loses nothing",
        TITLES[target], cost,
    )  # fmt: skip


def _settings_text(
    model: Path,
    options: ExportOptions,
    scene: PredictInput | None,
    planned: ToolInput | None,
    found: Agreement,
    windows: str,
) -> str:
    """Return the settings and the result of the comparison as TOML."""
    made: dict[str, Any] = {
        "model": str(model),
        "model_sha256": sha256(model),
        "export": vars(options),
        "input": vars(planned) if planned else {},
        "comparison": {
            "windows": windows, "pixels": found.pixels, "equal": found.equal,
            "largest_difference": found.largest,
            "scene": vars(scene) if scene else {},
        },
    }  # fmt: skip
    return dump_settings(made)
