"""How many points each stratum gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.errors import ConfigError, InputError
from cafe_cli.evaluation.allocation import allocate, group_classes
from tests.support.rasters import TABLE


def counts(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("pixels", "count", "minimum", "rule", "expected"),
    [
        ((6000, 3000, 1000), 100, 2, "proportional", (60, 30, 10)),
        ((6000, 3000, 1000), 100, 20, "proportional", (53, 27, 20)),
        ((6000, 3000, 1000), 100, 2, "equal", (34, 33, 33)),
        ((6000, 3000, 1000), 10_000, 2, "proportional", (6000, 3000, 1000)),
        ((6000, 3000, 5), 300, 50, "equal", (148, 147, 5)),
        ((6000, 0, 1000), 100, 50, "proportional", (50, 0, 50)),
        ((200_000, 150_000, 3_200_000, 6_450_000), 640, 75, "proportional", (75, 75, 162, 328)),
    ],
)
def test_points_follow_the_rule_within_the_limits(pixels, count, minimum, rule, expected):
    assert tuple(allocate(counts(*pixels), count, minimum, rule)) == expected


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=8).filter(lambda p: sum(p) > 500),
    st.integers(2, 40),
    st.sampled_from(["proportional", "equal"]),
)
def test_all_points_are_given_and_no_stratum_has_too_few_or_too_many(pixels, minimum, rule):
    total = counts(*pixels)
    found = allocate(total, 400, minimum, rule)
    assert found.sum() == 400
    assert (found >= np.minimum(minimum, total)).all()
    assert (found <= total).all()


def test_too_few_points_or_pixels_are_told_with_numbers():
    with pytest.raises(ConfigError, match=r"90 points .* 50 in each of 2 strata, .* 100; .* 45$"):
        allocate(counts(500, 500), 90, 50, "proportional")
    with pytest.raises(InputError, match=r"has 30 pixels .* 40 points"):
        allocate(counts(20, 10), 40, 2, "equal")


def test_classes_of_one_stratum():
    names, strata = group_classes(TABLE, ["Building, ground"])
    assert names == ("ground+building", "tree")
    assert strata.tolist() == [0, 1, 0]
    assert group_classes(TABLE, [])[0] == TABLE.names
    for wrong, said in [
        (["tre"], "did you mean 'tree'"),
        (["lava"], "ground, tree, building"),
        (["tree,ground", "tree,building"], "'tree' twice"),
        (["tree,tree"], "'tree' twice"),
    ]:
        with pytest.raises(ConfigError, match=said):
            group_classes(TABLE, wrong)
