"""Options that several commands share, and options that override a key of the config."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import click

from cafe_cli.config.choices import Ground, HeightKind, OnError, Unit
from cafe_cli.text import list_some

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config
    from cafe_cli.raster.stac import StacOptions

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

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
    help : str, optional
    type : type or Literal
        A Literal offers its values as choices.
    metavar : str, optional
        Placeholder of the value in the help text.
    multiple : bool
        Whether the option may be repeated.
    callback : callable, optional
        Parses the value, as click calls it.
    """

    flag: str
    key: str
    help: str | None = None
    type: Any = str
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
        return click.option(
            self.flag, self.parameter, type=kind, help=self.help, metavar=self.metavar,
            multiple=self.multiple, callback=self.callback,
        )(command)  # fmt: skip


def add_options(options: Sequence[ConfigOption]) -> Decorator:
    """Return a decorator that adds options in the order of the sequence."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option.decorate(command)
        return command

    return add


def take_overrides(options: Sequence[ConfigOption], given: dict[str, Any]) -> dict[str, Any]:
    """Remove the options' parameters from `given`; return those that are set by config key."""
    values = {option.key: given.pop(option.parameter) for option in options}
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


integers = _numbers(int, "4,1,2")
floats = _numbers(float, "0.75,1,1.25")


def _absolute(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> Any:
    """Make file names absolute: those of a config are relative to its own folder."""
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
    return ConfigOption(flag, key, what, multiple=True, callback=_absolute)


RASTER_OPTIONS = (
    ConfigOption(
        "--bands", "scenes.bands", "Optical bands from 1, in this order.",
        metavar="B,B,...", callback=integers,
    ),
    ConfigOption("--crs", "scenes.crs", "CRS of rasters that do not say theirs, e.g. EPSG:25832."),
    ConfigOption(
        "--pixel-size", "scenes.pixel_size", "Metres per pixel of rasters without georeference.",
        float,
    ),
    ConfigOption(
        "--optical-nodata", "scenes.optical_nodata",
        "Value that marks voids of the orthophoto, instead of the raster's nodata or mask.", float,
    ),
    ConfigOption(
        "--height-kind", "height.kind", "Absolute heights (dsm) or above ground (ndsm).", HeightKind
    ),
    ConfigOption("--height-unit", "height.unit", "Unit of the heights.", Unit),
    ConfigOption(
        "--height-nodata", "height.nodata",
        "Value that marks voids, instead of the raster's nodata.", float,
    ),
)  # fmt: skip
"""Options for the content of the rasters."""

SCENE_OPTIONS = (
    _files(
        "--optical", "scenes.optical",
        "Orthophoto; {id} in the name makes scenes, * and repetition join files.",
    ),
    _files("--elevation", "scenes.elevation", "Surface model; named like --optical."),
    _files("--dtm", "scenes.dtm", "Terrain model to take heights above."),
    _files("--labels", "scenes.labels", "Labels: raster or vectors."),
    _files("--corrections", "scenes.corrections", "Newer labels on top of these."),
    *RASTER_OPTIONS,
    ConfigOption("--ground", "height.ground", type=Ground),
    ConfigOption("--size", "tile.size", "Side of a tile in pixels.  [default: 512]", int),
    ConfigOption(
        "--overlap", "tile.overlap", "Overlap of training tiles in pixels.  [default: size / 4]",
        int,
    ),
)  # fmt: skip
"""Options for the scenes, the content of their rasters, and the tiles."""


class RasterCommand(click.Command):
    """A command that explains the arguments that a shell makes of an unquoted pattern.

    Options take one name each, so that all others of ``--optical ortho/*.tif`` become arguments.
    """

    allow_extra_args = True  # refused below, with a message of their own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, and refuse names that follow the value of an option."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        for option, flag, values, others in _split_by_option(self, words):
            if strays := [word for word in others if self.is_stray(ctx, word)]:
                ctx.fail(_describe_strays(option, flag, values, strays))
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


class NamesCommand(click.Command):
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
    command = click.option(
        "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE",
        help="Set any key of the config.",
    )(command)  # fmt: skip
    return click.option("-c", "--config", "config_path", type=PATH, help="Config file (TOML).")(
        command
    )


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")


def output_options(what: str) -> Decorator:
    """Add --output, described by `what`, and --overwrite."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        output = click.option("-o", "--output", type=PATH, required=True, help=what)
        return output(overwrite_option(command))

    return add


def bbox_option(what: str) -> Decorator:
    """Add --bbox, described by `what`."""
    return click.option("--bbox", type=float, nargs=4, metavar="LEFT BOTTOM RIGHT TOP", help=what)


def stac_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --stac and --datetime, which `take_stac` reads."""
    command = click.option(
        "--datetime", metavar="WHEN",
        help="When the images were taken, for --stac, e.g. 2024-06-01.  [default: as inputs say]",
    )(command)  # fmt: skip
    return click.option(
        "--stac", is_flag=True, help="Write a STAC item beside the map: NAME.stac.json."
    )(command)


def take_stac(options: dict[str, Any]) -> "StacOptions | None":
    """Remove the values of --stac and --datetime; return what they ask for."""
    from cafe_cli.raster.stac import StacOptions

    asked, moment = options.pop("stac"), options.pop("datetime")
    if moment is not None and not asked:
        raise click.UsageError("--datetime is for --stac: add that, or leave it out")
    return StacOptions(moment) if asked else None


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
on_error_option = click.option(
    "--on-error", type=click.Choice(get_args(OnError)), default="fail", show_default=True,
    help="Where a file cannot be read: stop, or leave it out, count it and exit with 3.",
)  # fmt: skip
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Threads.  [default: one per core]"
)
dry_option = click.option(
    "--dry-run", is_flag=True, help="Check the inputs and say what would be done; write nothing."
)
