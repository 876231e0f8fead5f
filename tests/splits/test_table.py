import math

import pytest

from cafe_cli.errors import ConfigError, InputError
from cafe_cli.splits.table import is_table, name_counts, parse_splits, read_table, split_of

SCENES = ["2_10", "2_11", "3_10", "3_11"]


@pytest.fixture
def table(tmp_path):
    """Write a table: ``table(text, **encoding)`` -> path."""

    def write(text, encoding="utf-8"):
        path = tmp_path / "split.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "/x/b.tsv", "c.txt"])
def test_tables_are_known_by_their_names(name):
    assert is_table(name)
    assert not is_table(name + ".gpkg")


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("VAL", "validation"),
        (" valid ", "validation"),
        ("Validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
        ("tset", None),
        ("", None),
        (None, None),
        (1, None),
    ],
)
def test_splits_by_name(value, split):
    assert split_of(value) == split


def test_empty_values_say_nothing():
    assert parse_splits([None, math.nan, " ", "Val"], "a") == [None, None, None, "validation"]


def test_values_that_are_no_split_are_counted():
    values = ["train", "x", 3, "x", None]
    message = r"column 'y' has values that are not a split: 'x' \(2\), 3 \(1\); write train, valid"
    with pytest.raises(InputError, match=message):
        parse_splits(values, "column 'y'")


def test_long_lists_are_cut():
    listed = name_counts([*"abcdefghij", *"cc"])
    assert (
        listed
        == "'c' (3), 'a' (1), 'b' (1), 'd' (1), 'e' (1), 'f' (1), 'g' (1), 'h' (1) and 2 more"
    )


@pytest.mark.parametrize("mark", ",;\t")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_says_where_scenes_go(table, mark, encoding, end):
    lines = ["scene,note,split", "2_10,a,Train", " 2_11 ,,val", "", "3_10,b,", "3_11,,test"]
    path = table(end.join(lines).replace(",", mark), encoding)
    expected = {"2_10": "train", "2_11": "validation", "3_11": "test"}
    assert read_table(path, "split", SCENES) == expected


def test_another_column_and_quotes(table):
    path = table(
        '"fold 1",scene,split\nval,"2_10",x\n"train","2,11",x\ntest\n'.replace("test\n", "")
    )
    assert read_table(path, "fold 1", ["2_10", "2,11"]) == {"2_10": "validation", "2,11": "train"}


def test_lines_may_be_shorter_than_the_header_or_have_empty_ends(table):
    path = table("scene,split\n2_10\n2_11,test,,\n")
    assert read_table(path, "split", SCENES) == {"2_11": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it has to hold a table of scenes"),
        ("\n\n", "is empty"),
        ("Scene,split\n", "no column 'scene': the columns are Scene, split; did you mean 'Scene'?"),
        ("id;split\n", "no column 'scene': the columns are id, split$"),
        ("scene,split\n2_10,tarin\n2_11,tarin\n", r"column 'split' of .*: 'tarin' \(2\); write"),
        ("scene,split\n2_10,val\n2_11,val\n2_10,val\n", r"more than once: '2_10' \(2\)$"),
        ("scene,split\n2_10,val\n4_1,val\n9,val\n", "do not exist: '4_1', '9'; found: 2_10, 2_11"),
        ("scene,split\n2,10,val\n", "line 2: 3 values below 2 column names; quote .* ','"),
        ('scene,split\n2_10,"val', None),
    ],
)
def test_bad_tables(table, text, message):
    if message is None:
        assert read_table(table(text), "split", SCENES) == {"2_10": "validation"}
        return
    with pytest.raises(InputError, match=message):
        read_table(table(text), "split", SCENES)


def test_a_split_column_that_is_not_there(table):
    path = table("scene,Splits,note\n")
    message = "split.column: .* has no 'split': .* Splits, note; did you mean 'Splits'?"
    with pytest.raises(ConfigError, match=message):
        read_table(path, "split", SCENES)


def test_unreadable_tables(table, tmp_path):
    with pytest.raises(InputError, match=r"cannot read split.file .*none.csv: No such file"):
        read_table(tmp_path / "none.csv", "split", SCENES)
    with pytest.raises(InputError, match="not a CSV table in UTF-8"):
        read_table(table("scene,split\n", "utf-16"), "split", SCENES)
