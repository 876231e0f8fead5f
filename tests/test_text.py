import pytest

from cafe_cli import text


def test_names_that_are_like_a_misspelt_one():
    known = ["epochs", "Seed", "batch_size"]
    assert text.closest("epcohs", known) == ["epochs"]
    assert text.closest("SEDE", known) == ["Seed"]
    assert text.closest("moon", known) == []
    assert text.closest("resnet81", ["resnet18", "vgg11", "resnet101", "resnet34"], 2) == [
        "resnet18", "resnet101",
    ]  # fmt: skip


def test_did_you_mean():
    assert text.did_you_mean("sed", ["seed", "size"]) == "did you mean 'seed'?"
    assert text.did_you_mean("moon", ["seed", "size"]) == ""


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (5, "0, 1, 2 and 2 more")]
)
def test_long_lists_are_cut(count, said):
    assert text.list_some([str(i) for i in range(count)], 3) == said


def test_first_line_of_an_error():
    assert text.first_line(ValueError("one\ntwo")) == "one"
    assert text.first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [(0, None, "0 %"), (1, None, "100 %"), (0.5, None, "50.0 %"), (0.00012345, None, "0.0123 %"),
     (0, 1, "0.0 %"), (0.256, 0, "26 %"), (0.00126, 2, "0.13 %")],
)  # fmt: skip
def test_percent(share, digits, said):
    assert text.percent(share, digits) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 kB"), (250e3, "250 kB"), (1e6, "1 MB"), (1.254e9, "1.25 GB"), (50e9, "50 GB"),
     (2.9e12, "2.9 TB"), (1.5e15, "1.5 PB")],
)  # fmt: skip
def test_file_size(count, said):
    assert text.file_size(count) == said


def test_megabytes_can_be_compared():
    assert [text.megabytes(count) for count in (1000, 1.25e9)] == ["0 MB", "1,250 MB"]


@pytest.mark.parametrize(
    ("count", "said"),
    [(12_345, "0.0123 Mpx"), (16_777_216, "16.8 Mpx"), (99.94e6, "99.9 Mpx"), (99.96e6, "100 Mpx"),
     (1e12, "1,000,000 Mpx")],
)  # fmt: skip
def test_megapixels(count, said):
    assert text.megapixels(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (99.4, "99s"), (99.6, "1m40"), (3599, "59m59"),
     (5999.4, "99m59"), (5999.6, "1h40"), (3600 * 99.99, "99h59"), (3600 * 140, "140h")],
)  # fmt: skip
def test_short_duration(seconds, said):
    assert text.short_duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.123456, "0.123 s"), (59.4, "59.4 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"),
     (3660, "1 h 01 min"), (90_000, "25 h 00 min"),
     (3600 * 999, "999 h 00 min"), (3.6e6, "1,000 h"), (3600 * 154_320.7, "154,321 h")],
)  # fmt: skip
def test_duration(seconds, said):
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("said", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1d12h", 129_600)]
)
def test_parse_duration(said, seconds):
    assert text.parse_duration(said) == seconds


@pytest.mark.parametrize("said", ["", "90", "1.5h", "m30", "30m1h"])
def test_what_is_no_duration(said):
    with pytest.raises(ValueError, match="is not a time"):
        text.parse_duration(said)
