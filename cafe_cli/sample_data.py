"""The sample data: where they are installed, and a copy of them to work on."""

import shutil
from pathlib import Path

from cafe_cli.errors import InputError, OutputError
from cafe_cli.system.atomic_write import check_output, refuse_others, replace_atomically
from cafe_cli.system.output_group import claim_outputs

SAMPLE_CONFIG = Path("configs", "sample.toml")
SAMPLE_DATA = Path("sample_data")


def find_sample() -> Path:
    """Return the folder that holds `SAMPLE_CONFIG` and `SAMPLE_DATA`.

    A wheel installs them inside the package; an editable install finds them in the clone.

    Raises
    ------
    InputError
        They are in neither place.
    """
    package = Path(__file__).parent
    for folder in (package / "_sample", package.parent):
        if (folder / SAMPLE_CONFIG).is_file() and (folder / SAMPLE_DATA).is_dir():
            return folder
    raise InputError(
        f"no sample data beside {package}; install cafe again: pip install . in a clone, or "
        "pip install and the name of the wheel"
    )


def copy_sample(output: Path, *, overwrite: bool = False) -> None:
    """Copy the sample data and their config into a folder.

    Parameters
    ----------
    output : Path
        The folder; ``configs/sample.toml`` and ``sample_data`` are in it afterwards, as in a clone.
    overwrite : bool
        Replace a folder that exists, if it holds nothing but such a copy.

    Raises
    ------
    InputError
        The sample data are not installed.
    OutputError
        `output` exists and may not be replaced, or it cannot be written.
    """
    source = find_sample()
    files = [file for file in (source / SAMPLE_DATA).iterdir() if file.is_file()]
    names = [SAMPLE_CONFIG, *(SAMPLE_DATA / file.name for file in files)]
    check_output(output, overwrite)
    if output.is_file():
        raise OutputError(f"{output} is a file; name a folder")
    refuse_others(output, "the sample data", lambda parts: Path(*parts) in names)
    with claim_outputs([output], overwrite), replace_atomically(output, overwrite) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
