"""Options that several commands share, and options that override a key of the config."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from cafe_cli.cli.help import CafeCommand, Decorator, complete_files, option
from cafe_cli.config.choices import Ground, HeightKind, OnError, Unit
from cafe_cli.text import list_some

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config
    from cafe_cli.raster.stac import StacOptions

PATH = click.Path(path_type=Path)
QUOTE = "quote the pattern, so that the shell does not expand it"


@dataclass(frozen=True)
class ConfigOption:
    """An option that overrides a key of the config.

    Attributes
    ----------
    flag : str
        Such as ``--batch-size``; the command's parameter is named after it.
    key : str
        Dotted key of `cafe_cli.config.schema.Config`, such as ``train.batch_size``.
    help : str
    type : type or Literal
        A Literal offers its values as choices.
    default : str, optional
        The key's default, for the help: the schema is slow to import. None if the key has none.
    metavar : str, optional
        Placeholder of the value in the help text.
    multiple : bool
        Whether the option may be repeated.
    callback : callable, optional
        Parses the value, as click calls it.
    """

    flag: str
    key: str
    help: str
    type: Any = str
    default: str | None = None
    metavar: str | None = None
    multiple: bool = False
    callback: Callable[[click.Context, click.Parameter, Any], Any] | None = None

    @property
    def parameter(self) -> str:
        """Name of the command's parameter."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """Values to choose from; empty if there are none."""
        return get_args(self.type)

    def decorate(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Add the option to a command."""
        kind = click.Choice(self.choices) if self.choices else self.type
        files = self.metavar in ("FILE", "FILES")
        return option(
            self.flag, self.parameter, type=kind, help=self.help, metavar=self.metavar,
            show_default=self.default or False, multiple=self.multiple, callback=self.callback,
            shell_complete=complete_files if files else None,
        )(command)  # fmt: skip


def add_options(options: Sequence[ConfigOption]) -> Decorator:
    """Return a decorator that adds options in the order of the sequence."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for declared in reversed(options):
            command = declared.decorate(command)
        return command

    return add


def take_overrides(options: Sequence[ConfigOption], given: dict[str, Any]) -> dict[str, Any]:
    """Remove the options' parameters from `given`; return those that are set by config key."""
    values = {declared.key: given.pop(declared.parameter) for declared in options}
    return {key: value for key, value in values.items() if value is not None}


def read_config(
    path: Path | None, assignments: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> "Config":
    """Read the config file, and override it by ``--set`` and then by the other options."""
    from cafe_cli.config.load import load_config, parse_assignment

    return load_config(path, {**dict(map(parse_assignment, assignments)), **(overrides or {})})


def _numbers(convert: Callable[[str], float], example: str) -> Callable[..., Any]:
    """Return a callback that parses numbers separated by commas."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return tuple(convert(part) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a list like {example}") from error

    return parse


def floats_or_auto(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse numbers separated by commas, or ``auto``."""
    return value if value == "auto" else floats(context, parameter, value)


integers = _numbers(int, "4,1,2")
floats = _numbers(float, "0.75,1,1.25")


def _absolute(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> Any:
    """Make file names absolute: those of a config are relative to its own folder."""
    if not names or context.resilient_parsing:  # the shell completes: nothing may be imported
        return None
    from cafe_cli.scenes.discovery import expand
    from cafe_cli.system.atomic_write import is_remote

    def absolute(name: str) -> str:
        return name if is_remote(name) else str(Path(name).absolute())

    # Names in an @list are relative to the working folder, too.
    listed = [n for name in names for n in (expand(name) if name.startswith("@") else [name])]
    found = tuple(map(absolute, listed))
    return found[0] if len(found) == 1 else found or None


def absolute_path(context: click.Context, parameter: click.Parameter, name: str | None) -> Any:
    """Make the name of a file absolute: those of a config are relative to its own folder."""
    return name if name is None else str(Path(name).expanduser().absolute())


def _files(flag: str, key: str, what: str) -> ConfigOption:
    return ConfigOption(flag, key, what, metavar="FILES", multiple=True, callback=_absolute)


CONTENT_OPTIONS = (
    ConfigOption(
        "--bands", "scenes.bands", "Optical bands to use, numbered from 1, in this order.",
        default="all but alpha", metavar="B,B,...", callback=integers,
    ),
    ConfigOption(
        "--crs", "scenes.crs", "CRS to assume for rasters that have none, e.g. EPSG:25832.",
        metavar="CRS",
    ),
    ConfigOption(
        "--pixel-size", "scenes.pixel_size",
        "Pixel size to assume for rasters without a georeference.", float, metavar="METRES",
    ),
    ConfigOption(
        "--optical-nodata", "scenes.optical_nodata",
        "Nodata value of the orthophoto, in place of the nodata or mask that it declares.", float,
        metavar="VALUE",
    ),
)  # fmt: skip
"""Options for the content of the orthophoto, and for the georeference of all rasters."""

HEIGHT_OPTIONS = (
    ConfigOption(
        "--height-kind", "height.kind",
        "Meaning of the heights: absolute (dsm), or above ground (ndsm).", HeightKind, "dsm",
    ),
    ConfigOption(
        "--height-unit", "height.unit",
        "Unit of the heights; auto: the one that the raster states.", Unit, "auto",
    ),
    ConfigOption(
        "--height-nodata", "height.nodata",
        "Nodata value of the heights, in place of the one that the raster declares.", float,
        metavar="VALUE",
    ),
)  # fmt: skip
"""Options for the content of the height raster."""

GROUND_OPTIONS = (
    *HEIGHT_OPTIONS,
    ConfigOption(
        "--ground", "height.ground",
        "Ground to subtract from a DSM: the terrain model, an estimate, or none; auto: the terrain "
        "model if there is one, else the estimate.", Ground, "auto",
    ),
)  # fmt: skip
"""Options for the heights above ground."""

INPUT_OPTIONS = (
    _files(
        "--optical", "scenes.optical",
        "Orthophoto. {id} in its name makes one scene per match; files that * matches are joined.",
    ),
    _files("--elevation", "scenes.elevation", "Surface model (DSM); {id} as in --optical."),
    _files("--dtm", "scenes.dtm", "Terrain model (DTM), to compute heights above ground."),
    _files("--labels", "scenes.labels", "Labels: classified rasters or vector files."),
    _files(
        "--corrections", "scenes.corrections",
        "Newer labels, which replace --labels wherever they have a class.",
    ),
    *CONTENT_OPTIONS,
)  # fmt: skip
"""Options for the files of scenes and their content."""

TILE_OPTIONS = (
    ConfigOption(
        "--size", "tile.size", "Side of a tile.", int, "512", metavar="PIXELS",
    ),
    ConfigOption(
        "--overlap", "tile.overlap", "Overlap of neighbouring training tiles.", int,
        "a quarter of --size", metavar="PIXELS",
    ),
)  # fmt: skip
"""Options for the tiles."""

SCENE_OPTIONS = (*INPUT_OPTIONS, *GROUND_OPTIONS, *TILE_OPTIONS)
"""Options for the scenes, the content of their rasters, and the tiles."""


class RasterCommand(CafeCommand):
    """A command that explains the arguments that a shell makes of an unquoted pattern.

    Options take one name each, so that all others of ``--optical ortho/*.tif`` become arguments.
    """

    allow_extra_args = True  # refused below, with a message of their own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, and refuse names that follow the value of an option."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        for parameter, flag, values, others in _split_by_option(self, words):
            if strays := [word for word in others if self.is_stray(ctx, word)]:
                ctx.fail(_describe_strays(parameter, flag, values, strays))
        if rest:
            ctx.fail(f"Got unexpected extra arguments ({' '.join(rest)})")
        return rest

    def is_stray(self, ctx: click.Context, word: str) -> bool:
        """Whether a word that follows the value of an option is no argument of the command."""
        return word in ctx.args


def _split_by_option(
    command: click.Command, words: Sequence[str]
) -> Iterator[tuple[click.Option, str, list[str], list[str]]]:
    """Yield every option on the command line: its flag, its values, and the words after these."""
    options = {
        flag: option
        for option in command.params
        if isinstance(option, click.Option)
        for flag in option.opts
    }
    starts = [n for n, word in enumerate(words) if word.partition("=")[0] in options]
    # A number after a hyphen may be a value; anything else is a flag in a form not looked at here.
    ends = [n for n, word in enumerate(words) if re.match(r"--?[A-Za-z]", word)]
    for start in starts:
        flag, equals, value = words[start].partition("=")
        end = min((n for n in ends if n > start), default=len(words))
        following = [*([value] if equals else []), *words[start + 1 : end]]
        count = 0 if options[flag].is_flag else options[flag].nargs
        yield options[flag], flag, following[:count], following[count:]


def _describe_strays(
    option: click.Option, flag: str, values: Sequence[str], strays: Sequence[str]
) -> str:
    said = f"{flag} takes {'one value' if values else 'no value'}, but {list_some(strays, 3)}"
    said += f" {'follow' if len(strays) > 1 else 'follows'} it"
    if not option.multiple:
        return said
    folders = {os.path.dirname(name) for name in (*values, *strays)}
    suffix = os.path.splitext(strays[0])[1]
    pattern = os.path.join(folders.pop() if len(folders) == 1 else "FOLDER", f"*{suffix}")
    return f"{said}: {QUOTE}: {flag} '{pattern}'"


class NamesCommand(CafeCommand):
    """A command of a few names, that explains the others that a shell makes of a pattern."""

    allow_extra_args = True  # refused below, with a message of their own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, and refuse more names than there are arguments."""
        rest = super().parse_args(ctx, args)
        if rest:
            taken = [param for param in self.params if isinstance(param, click.Argument)]
            names = [*(str(ctx.params[param.name]) for param in taken if param.name), *rest]
            patterns = _guess_patterns(names)
            if len(patterns) > len(taken):
                patterns = [f"'{str(param.name).upper()}/*.tif'" for param in taken]
            wanted = " and ".join(param.make_metavar(ctx).strip("[]") for param in taken)
            ctx.fail(
                f"{wanted} {'are' if len(taken) > 1 else 'is'} one name"
                f"{' each' * (len(taken) > 1)}, but {len(names)} were given: {QUOTE}: "
                f"{ctx.command_path} {' '.join(patterns)}"
            )
        return rest


def _guess_patterns(names: Sequence[str]) -> list[str]:
    """Return the words that a shell may have expanded to names: a quoted pattern for each folder.

    A name that stands alone in its folder stays.
    """
    groups = dict[tuple[str, str], list[str]]()
    for name in names:
        groups.setdefault((os.path.dirname(name), os.path.splitext(name)[1]), []).append(name)
    return [
        f"'{os.path.join(folder, f'*{suffix}')}'" if len(found) > 1 else found[0]
        for (folder, suffix), found in groups.items()
    ]


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config and --set."""
    command = option(
        "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE",
        help="Set any key of the config, e.g. tile.size=256; may be repeated.",
    )(command)  # fmt: skip
    return option(
        "-c", "--config", "config_path", type=PATH, metavar="FILE",
        help="Config file (TOML): scenes, classes and settings. Options override it.",
    )(command)  # fmt: skip


overwrite_option = option("--overwrite", is_flag=True, help="Replace outputs that exist.")


def output_options(what: str, metavar: str = "FILE") -> Decorator:
    """Add --output, described by `what`, and --overwrite."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        output = option("-o", "--output", type=PATH, metavar=metavar, required=True, help=what)
        return output(overwrite_option(command))

    return add


def bbox_option(what: str, default: str | None = None) -> Decorator:
    """Add --bbox, described by `what`."""
    return option(
        "--bbox", type=float, nargs=4, metavar="LEFT BOTTOM RIGHT TOP", help=what,
        show_default=default or False,
    )  # fmt: skip


def stac_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --stac and --datetime, which `take_stac` reads."""
    command = option(
        "--datetime", metavar="WHEN", show_default="as the inputs state",
        help="Acquisition time of the images for --stac, e.g. 2024-06-01.",
    )(command)  # fmt: skip
    return option(
        "--stac", is_flag=True, help="Also write a STAC item beside the map: NAME.stac.json."
    )(command)


def take_stac(options: dict[str, Any]) -> "StacOptions | None":
    """Remove the values of --stac and --datetime; return what they ask for."""
    from cafe_cli.raster.stac import StacOptions

    asked, moment = options.pop("stac"), options.pop("datetime")
    if moment is not None and not asked:
        raise click.UsageError("--datetime is for --stac: add that, or leave it out")
    return StacOptions(moment) if asked else None


def file_option(*flags: str, **attributes: Any) -> Decorator:
    """Add an option for input files: a file, or a folder, pattern or list of files."""
    return option(*flags, **{"metavar": "FILE", "shell_complete": complete_files, **attributes})


crs_option = option(
    "--crs", metavar="CRS", help="CRS to assume for rasters that have none, e.g. EPSG:25832."
)
pixel_size_option = option(
    "--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="METRES",
    help="Pixel size to assume for rasters without a georeference.",
)  # fmt: skip
device_option = option(
    "--device", default="auto", metavar="DEVICE",
    help="Device to compute on: auto, cpu, cuda or cuda:N.",
)  # fmt: skip
on_error_option = option(
    "--on-error", type=click.Choice(get_args(OnError)), default="fail",
    help="Where a file cannot be read: fail, or skip that part, count it and exit with code 3.",
)  # fmt: skip
jobs_option = option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N", show_default="one per core",
    help="Number of threads.",
)  # fmt: skip
json_option = option("--json", "as_json", is_flag=True, help="Print the results as JSON to stdout.")
dry_option = option(
    "--dry-run", is_flag=True, help="Check the inputs and print what would be done; write nothing."
)
