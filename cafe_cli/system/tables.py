"""Read CSV files as tables that keep the line number of each row."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.errors import InputError
from cafe_cli.system.untrusted import read_text

_LARGEST = 256_000_000  # bytes


@dataclass(frozen=True)
class CsvTable:
    """The text of a CSV file, without empty lines.

    Attributes
    ----------
    name : str
        Name of the file in messages.
    delimiter : str
    header : list of str
        Names of the columns; empty for an empty file.
    rows : list of (int, list of str)
        Line number, from 1, and the values, which may be fewer or more than the columns.
    """

    name: str
    delimiter: str
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def records(self, pad: bool = False) -> list[dict[str, str]]:
        """Return each row as a dict from column name to value.

        Parameters
        ----------
        pad : bool
            Whether rows may be shorter than the header, or longer by empty values.

        Raises
        ------
        InputError
            A row has too many values or too few.
        """
        columns = len(self.header)
        for line, values in self.rows:
            if len(values) != columns and (any(values[columns:]) or not pad):
                raise InputError(
                    f"{self.name}, line {line}: {len(values)} values below {columns} column names; "
                    f"quote values that hold {self.delimiter!r}"
                )
        padding = [""] * columns
        return [dict(zip(self.header, [*row, *padding], strict=False)) for _, row in self.rows]


def read_csv(path: Path | str, setting: str = "") -> CsvTable:
    """Read a CSV file in UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path : Path or str
    setting : str
        The config key that names the file, if a user wrote it, perhaps with a spreadsheet: commas,
        semicolons or tabs may separate values, and blanks around them are removed. Without it,
        only commas separate values, and blanks are kept.

    Raises
    ------
    InputError
        The file cannot be read, or is not CSV in UTF-8.
    """
    name = f"{setting} {path}".strip()
    try:
        text = read_text(path, _LARGEST)
        delimiter = max(",;\t", key=text.partition("\n")[0].count) if setting else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name} is not a CSV table in UTF-8: {error}") from error
    if "\0" in text:
        raise InputError(f"{name} is not a CSV table in UTF-8: it holds binary data")
    if setting:
        rows = [(line, [value.strip() for value in row]) for line, row in rows]
    rows = [(line, row) for line, row in rows if any(row)]
    return CsvTable(name, delimiter, rows[0][1] if rows else [], rows[1:])
