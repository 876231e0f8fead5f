import pytest

from cafe_cli.errors import InputError
from cafe_cli.system.tables import read_csv


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_rows_know_their_line(table):
    read = read_csv(table('a,b\n1, x \n\n"two\nlines",\n,\n'))
    assert read.header == ["a", "b"]
    assert read.rows == [(2, ["1", " x "]), (5, ["two\nlines", ""])]
    assert read.records()[0] == {"a": "1", "b": " x "}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_files_of_a_user(table, delimiter):
    text = "a,b\r\n 1 ,x\r\n , \r\n".replace(",", delimiter)
    read = read_csv(table(text, "utf-8-sig"), "split.file")
    assert read.delimiter == delimiter
    assert read.header == ["a", "b"]
    assert read.rows == [(2, ["1", "x"])]


def test_nothing(table):
    for text in ("", "\n\n"):
        read = read_csv(table(text))
        assert read.header == read.rows == read.records() == []


def test_rows_of_another_length(table):
    short, long, trailing = (read_csv(table(f"a,b\n{row}\n")) for row in ("1", "1,2,3", "1,2,,"))
    assert short.records(pad=True) == [{"a": "1", "b": ""}]
    assert trailing.records(pad=True) == [{"a": "1", "b": "2"}]
    for read, pad, count in ((short, False, 1), (long, False, 3), (long, True, 3)):
        message = (
            rf"t\.csv, line 2: {count} values below 2 column names; quote values that hold ','"
        )
        with pytest.raises(InputError, match=message):
            read.records(pad)
    with pytest.raises(InputError, match="line 2: 4 values"):
        trailing.records()


@pytest.mark.parametrize(
    ("text", "encoding", "says"),
    [("\u00e4", "latin-1", "can't decode"), ("a\0b", "utf-8", "it holds binary data")],
)
def test_no_text(table, text, encoding, says):
    path = table(text, encoding)
    with pytest.raises(InputError, match=rf"^x\.y {path} is not a CSV table in UTF-8: .*{says}"):
        read_csv(path, "x.y")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read .*none\.csv: No such file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"^cannot read x\.y .*: Is a directory"):
        read_csv(tmp_path, "x.y")
