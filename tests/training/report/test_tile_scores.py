import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.errors import InputError, LabelError
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.tilesets.tileset import Tile
from cafe_cli.training.report import tile_scores
from cafe_cli.training.report.tile_scores import TileScore, worst_tiles
from cafe_cli.training.validation import ValidationAccumulator, confusions
from tests.support.rasters import TABLE

GROUND, TREE, BUILDING = 0, 1, 2
NONE = 255


def tiles(count: int) -> list[Tile]:
    return [
        Tile(name=f"t{i}", split="validation", scene="s", row=0, col=64 * i, valid=1, labelled=1)
        for i in range(count)
    ]


def ids(*values) -> torch.Tensor:
    """Return tiles of one row."""
    return torch.tensor(values)[:, None]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6))
def test_counts_are_those_of_the_confusion_matrix(seed, batch, classes):
    random = np.random.default_rng(seed)
    truth = random.integers(-1, classes, (batch, 5, 7)) % 256
    predicted = random.integers(0, classes, (batch, 5, 7))
    found = confusions(torch.from_numpy(truth), torch.from_numpy(predicted), classes)
    for mine, one, other in zip(found, truth, predicted, strict=True):
        oracle = Confusion(classes)
        oracle.add(one, other)
        assert np.array_equal(mine, oracle.counts)


def test_a_tile_is_summed_up():
    tally = ValidationAccumulator(tiles(3), 3)
    tally.add(
        [2, 0],
        ids([GROUND, GROUND, TREE, NONE], [TREE, TREE, BUILDING, GROUND]),
        ids([GROUND, GROUND, TREE, TREE], [BUILDING, BUILDING, GROUND, GROUND]),
    )
    assert tally.rows.tolist() == [[4, 3, TREE, BUILDING, 2], [0] * 5, [3, 0, 0, 0, 0]]
    assert tally.counts.tolist() == [[3, 0, 0], [0, 1, 2], [1, 0, 0]]


def test_processes_add_up():
    truth = torch.randint(0, 3, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    predicted = truth.roll(1, 2)
    whole, shares = (
        ValidationAccumulator(tiles(5), 3),
        [ValidationAccumulator(tiles(5), 3) for _ in range(2)],
    )
    whole.add(range(5), truth, predicted)
    for rank, share in enumerate(shares):
        share.add(range(rank, 5, 2), truth[rank::2], predicted[rank::2])
    assert np.array_equal(sum(s.rows for s in shares), whole.rows)
    assert np.array_equal(sum(s.counts for s in shares), whole.counts)


def test_predictions_of_watched_tiles_are_kept():
    tally = ValidationAccumulator(tiles(4), 3, watched=(1, 3))
    tally.add([0, 1], ids([0, 1], [1, 1]), ids([0, 2], [2, 1]))
    assert {n: ids_.tolist() for n, ids_ in tally.watched.items()} == {1: [[2, 1]]}
    assert tally.watched[1].dtype == np.uint8


def test_labels_without_a_class():
    tally = ValidationAccumulator(tiles(2), 3)
    with pytest.raises(LabelError, match="2 pixels of the labels of tile t1 are neither a class"):
        tally.add([0, 1], ids([0, 1], [7, 3]), ids([0, 1], [0, 1]))
    assert not tally.counts.any()


def test_table(tmp_path):
    rows = np.array([[10, 1, TREE, GROUND, 1], [9, 0, 0, 0, 0], [8, 5, GROUND, BUILDING, 4]])
    path = tmp_path / tile_scores.VALIDATION_FILE
    tile_scores.write_tile_scores(path, rows, tiles(3), TABLE)
    assert path.read_text().splitlines()[:2] == [
        "name,scene,row,col,labelled,wrong,reference,predicted,pixels",
        "t2,s,0,128,8,5,ground,building,4",
    ]
    found = tile_scores.read_tile_scores(path)
    assert [s.name for s in found] == ["t2", "t0", "t1"]
    assert found[1] == TileScore("t0", "s", 0, 0, 10, 1, "tree", "ground", 1)
    assert found[2] == TileScore("t1", "s", 0, 64, 9, 0, "", "", 0)


HEADER = "name,scene,row,col,labelled,wrong,reference,predicted,pixels\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its columns are missing"),
        ("name,scene\na,b\n", r"its columns are \['name', 'scene'\]"),
        (HEADER + "a,b,x,1,1,1,,,1\n", "invalid literal"),
        (HEADER + "a,b\n", "line 2: 2 values below 9 column names"),
    ],
)
def test_no_table(tmp_path, text, message):
    path = tmp_path / tile_scores.VALIDATION_FILE
    path.write_text(text)
    with pytest.raises(InputError, match=f"is not a table of validation tiles: .*{message}"):
        tile_scores.read_tile_scores(path)


def test_a_table_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        tile_scores.read_tile_scores(tmp_path / "no.csv")


def score(name: str, wrong: int, col: int = 0, row: int = 0, scene: str = "s") -> TileScore:
    return TileScore(name, scene, row, col, 100, wrong, "tree", "ground", wrong)


def test_the_worst_do_not_overlap():
    known = [
        score("a", 5),
        score("b", 9, col=32),
        score("c", 8, col=64),
        score("d", 7, col=32, scene="t"),
        score("e", 3, row=64),
        score("f", 0, row=640),
    ]
    assert [s.name for s in worst_tiles(known, 9, 64)] == ["b", "d", "e"]
    assert [s.name for s in worst_tiles(known, 2, 32)] == ["b", "c"]
    assert worst_tiles([score("a", 0)], 3, 64) == []


@pytest.mark.parametrize(("row", "col"), [(40, 0), (0, 40), (40, 40), (64, 64), (640, 0), (0, 64)])
def test_places_are_compared_and_not_their_sums(row, col):
    """Tiles far from the origin of their scene overlap as those at it do."""
    known = [
        score("bad", 9, row=1000, col=2000),
        score("less", 8, row=1000 + row, col=2000 + col),
        score("before", 7, row=1000 - row, col=2000 - col),
    ]
    expected = ["bad", "less", "before"] if max(row, col) >= 64 else ["bad"]
    assert [s.name for s in worst_tiles(known, 9, 64)] == expected
