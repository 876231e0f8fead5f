"""``cafe report``: a map, its areas, its accuracy and its worst places on one page.

The page is one file that loads nothing, runs only its own script, and can be read without it.
"""

from pathlib import Path

from cafe_cli.errors import OutputError
from cafe_cli.map_report.accuracy import measure_accuracy
from cafe_cli.map_report.gather import gather
from cafe_cli.map_report.page import Content, render_page
from cafe_cli.map_report.pictures import overview_panels
from cafe_cli.map_report.places import worst_places
from cafe_cli.map_report.source import ReportInput, Subject
from cafe_cli.redaction import base_name
from cafe_cli.system.atomic_write import check_outputs, write_text
from cafe_cli.system.output_group import claim_outputs
from cafe_cli.system.threads import ProgressCallback

_SUFFIXES = (".html", ".htm")


def report(
    source: ReportInput,
    output: Path,
    *,
    title: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> int:
    """Write the report of a map; return the size of the file in bytes.

    All rasters are read block by block.

    Parameters
    ----------
    source : ReportInput
    output : Path
        ``.html``.
    title : str, optional
        By default the name of the map.
    overwrite : bool
        Replace an output that exists.
    progress : callable
        Called with the number of blocks done and of all: of the scores, then of the map, then of
        image and heights.

    Raises
    ------
    OutputError
        The output is not named ``.html``, exists, or cannot be written.
    GridError
        An input does not overlap the map, or only one of the two has a CRS.
    LabelError
        A value belongs to no class, or there is no class table.
    InputError, BandError
        A file is missing, damaged or of the wrong kind.
    """
    if output.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{output} is not named like a page; name it .html")
    check_outputs([output], source.files, overwrite)
    with claim_outputs([output], overwrite):
        subject = Subject(source)
        accuracy = measure_accuracy(subject, progress)
        summary = gather(subject, progress)
        estimated = accuracy.areas if accuracy is not None else None
        content = Content(
            title=title or base_name(source.map),
            panels=overview_panels(subject, summary, progress),
            areas=estimated or summary.areas,
            accuracy=accuracy,
            places=worst_places(subject, summary),
        )
        write_text(output, render_page(subject, content))
    return output.stat().st_size
