"""Files of scenes: placeholders, wildcards, lists, folders, and what cannot be listed."""

import glob
import os
from pathlib import Path

import pytest

from cafe_cli.config.schema import SceneSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.scenes.discovery import SceneFiles, expand, find_scenes


@pytest.fixture
def deliver(tmp_path):
    """Make empty files below a folder; return that."""

    def make(*names, root="."):
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / root

    return make


def found(root, **settings):
    scenes = find_scenes(SceneSettings(**settings), str(root))
    streams = ("optical", "elevation", "dtm", "labels")
    return {
        s.id: [[str(Path(p).relative_to(root)) for p in getattr(s, k)] for k in streams]
        for s in scenes
    }


def first_files(root, **settings):
    """Return the first optical, elevation and label file of each scene by its id."""
    return {
        name: [optical[0], elevation[0] if elevation else None, labels[0] if labels else None]
        for name, (optical, elevation, _, labels) in found(root, **settings).items()
    }


@pytest.mark.parametrize("root", ["data", "[x] (y)", "a {id} b*", "{2}"])
def test_files_are_paired_by_the_placeholders(deliver, root):
    folder = deliver(
        "top/p_2_10_RGB.tif", "top/p_2_9_RGB.tif", "top/p_2_RGB.tif", "top/q_2_10_RGB.tif",
        "dsm/02_10.tif", "dsm/02_09.tif", "label_2_10.tif", "label_2_9.tif", root=root,
    )  # fmt: skip
    settings = {
        "optical": "top/p_{row}_{col}_RGB.tif",
        "elevation": "dsm/{row:02}_{col:02}.tif",
        "labels": "label_{row}_{col}.tif",
    }
    assert first_files(folder, **settings) == {
        "2_10": ["top/p_2_10_RGB.tif", "dsm/02_10.tif", "label_2_10.tif"],
        "2_9": ["top/p_2_9_RGB.tif", "dsm/02_09.tif", "label_2_9.tif"],
    }


def test_a_placeholder_may_be_a_folder_and_occur_twice(deliver):
    folder = deliver("a/a.tif", "b/b.tif", "c/d.tif")
    assert list(first_files(folder, optical="{x}/{x}.tif")) == ["a", "b"]
    assert list(first_files(folder, optical="{x}/{y}.tif")) == ["a_a", "b_b", "c_d"]


def test_separators_of_windows(deliver, monkeypatch):
    folder = deliver("ortho/a.tif", "ortho/b.tif", "dsm/a.tif", "dsm/b.tif")
    search = glob.glob

    def search_on_windows(*words, **options):
        return [path.replace("/", "\\") for path in search(*words, **options)]

    monkeypatch.setattr(os, "sep", "\\")
    monkeypatch.setattr(glob, "glob", search_on_windows)
    assert first_files(folder, optical="ortho\\{id}.tif", elevation="dsm/{id}.tif") == {
        "a": ["ortho/a.tif", "dsm/a.tif", None],
        "b": ["ortho/b.tif", "dsm/b.tif", None],
    }
    assert [Path(path).name for path in expand("ortho/*.tif", str(folder))] == ["a.tif", "b.tif"]


def test_special_characters_mean_themselves(deliver):
    folder = deliver("a+b (1).tif", "a+b [x].tif", "aab (1).tif", "a+b {2}.tif", "*/z.tif")
    assert list(first_files(folder, optical="a+b ({n}).tif")) == ["1"]
    assert list(first_files(folder, optical="a+b [{n}].tif")) == ["x"]
    assert list(first_files(folder, optical="*/{n}.tif")) == ["z"]
    assert list(first_files(folder, optical="{n}+b {2}.tif")) == ["a"]


def test_a_file_without_placeholders_is_one_scene_named_like_it(deliver):
    folder = deliver("site.v1.tif", "dsm.tif")
    assert first_files(folder, optical="site.v1.tif", elevation="dsm.tif") == {
        "site.v1": ["site.v1.tif", "dsm.tif", None]
    }
    url = "https://host/a.tif"
    assert find_scenes(SceneSettings(optical=url, elevation="/vsicurl/x"), "r")[0].optical == (url,)


def test_scenes_can_be_named_and_left_out(deliver):
    folder = deliver("1.tif", "2.tif", "3.tif")
    pattern = {"optical": "{id}.tif"}
    assert list(first_files(folder, **{**pattern, "only": ("3", "1")})) == ["1", "3"]
    assert list(first_files(folder, **{**pattern, "exclude": ("2",)})) == ["1", "3"]
    for key in ("only", "exclude"):
        with pytest.raises(InputError, match="there is no scene '9'; found: 1, 2, 3"):
            first_files(folder, **{**pattern, key: ("9",)})
    with pytest.raises(InputError, match="leave no scene"):
        first_files(folder, **{**pattern, "only": ("1",), "exclude": ("1",)})


def test_what_is_missing_is_named(deliver):
    folder = deliver("1.tif", "2.tif", "1_dsm.tif", root="data")
    with pytest.raises(InputError, match=r"no file matches scenes\.optical = .*/data/x_{id}\.tif"):
        first_files(folder, optical="x_{id}.tif")
    settings = {"optical": "{id}.tif", "elevation": "{id}_dsm.tif", "exclude": ("1_dsm",)}
    with pytest.raises(InputError, match=r"scene 2 has no elevation: .*2_dsm\.tif does not exist"):
        first_files(folder, **settings)
    assert list(first_files(folder, **{**settings, "exclude": ("1_dsm", "2")})) == ["1"]


def test_a_placeholder_that_the_optical_pattern_lacks(deliver):
    folder = deliver("1.tif")
    with pytest.raises(ConfigError, match=r"\{row\} does not occur in scenes\.optical"):
        first_files(folder, optical="{id}.tif", labels="{row}.tif")


def test_two_files_with_one_id(deliver):
    folder = deliver("1-2_3.tif", "1_2-3.tif")
    with pytest.raises(InputError, match="have the same id"):
        first_files(folder, optical="{a}-{b}.tif")


# Several files of one stream


def test_wildcards_join_what_a_placeholder_tells_apart(deliver):
    root = deliver(
        "ortho/x1_a.tif", "ortho/x1_b.tif", "ortho/x2_a.tif", "dsm/x1/1.tif", "dsm/x1/2.tif",
        "dsm/x2/1.tif", "dtm.tif", "x1.gpkg", "x2.gpkg",
    )  # fmt: skip
    scenes = found(
        root, optical="ortho/{area}_*.tif", elevation="dsm/{area}/?.tif", dtm="dtm.tif",
        labels="{area}.gpkg",
    )  # fmt: skip
    assert scenes == {
        "x1": [
            ["ortho/x1_a.tif", "ortho/x1_b.tif"], ["dsm/x1/1.tif", "dsm/x1/2.tif"], ["dtm.tif"],
            ["x1.gpkg"],
        ],
        "x2": [["ortho/x2_a.tif"], ["dsm/x2/1.tif"], ["dtm.tif"], ["x2.gpkg"]],
    }  # fmt: skip


def test_without_a_placeholder_all_is_one_scene(deliver):
    root = deliver("sheets/b.tif", "sheets/a.tif", "sheets/.a.partial.tif", "sheets/notes.txt")
    one = [["sheets/a.tif", "sheets/b.tif"], [], [], []]
    assert found(root, optical="sheets/*.tif") == {
        "sheets": [["sheets/a.tif", "sheets/b.tif"], [], [], []]
    }
    assert found(root, optical="sheets") == {"sheets": one}
    assert found(root, optical=("sheets/a.tif", "sheets/b.tif")) == {"a": one}
    (root / "list.txt").write_text("sheets/a.tif\n\nsheets/b.tif\n")
    assert found(root, optical="@list.txt") == {"list": one}
    lidar = ["sheets/b.tif", "sheets/a.tif"]
    assert found(root, optical="sheets/a.tif", elevation=lidar)["a"][1] == lidar


def test_names_of_several_files():
    assert SceneFiles("x", ("a.tif",)).name == "a.tif"
    assert SceneFiles("x", ("a.tif", "b.tif", "c.tif")).name == "a.tif and 2 more"


def test_remote_files_are_named_not_listed():
    url = "https://host/{id}.tif"
    scenes = find_scenes(
        SceneSettings(optical=url, elevation="/vsis3/b/{id}_dsm.tif", only=("a", "b"))
    )
    assert [s.optical for s in scenes] == [("https://host/a.tif",), ("https://host/b.tif",)]
    assert scenes[1].elevation == ("/vsis3/b/b_dsm.tif",)
    for pattern, only in [(url, None), ("s3://b/{x}_{y}.tif", ("1_2",))]:
        with pytest.raises(
            ConfigError, match=r"files cannot be listed at .*: name the scenes with"
        ):
            find_scenes(SceneSettings(optical=pattern, only=only))


def test_patterns_that_nothing_fits(deliver):
    root = deliver("a.tif", "empty/notes.txt")
    with pytest.raises(InputError, match=r"no file matches scenes\.optical = .*none_\*\.tif"):
        found(root, optical="none_*.tif")
    for key in ("elevation", "dtm", "labels"):
        with pytest.raises(InputError, match=rf"scene a has no {key}: .*b_\*\.tif does not exist"):
            found(root, optical="a.tif", **{"elevation": "a.tif", key: "b_*.tif"})
    with pytest.raises(ConfigError, match=r"scenes\.dtm needs a surface model.* scenes\.elevation"):
        found(root, optical="a.tif", dtm="a.tif")
    with pytest.raises(InputError, match=r"no elevation: .*b\.tif does not exist"):
        found(root, optical="a.tif", elevation=["a.tif", "b.tif"])


def test_expand(deliver, monkeypatch):
    root = deliver("x/a.tif", "x/b.TIFF", "x/c.txt", "db.gdb/x.tif", "odd[1].tif")
    monkeypatch.chdir(root)
    assert expand("x") == ["x/a.tif", "x/b.TIFF"]
    assert expand("x", str(root)) == [f"{root}/x/a.tif", f"{root}/x/b.TIFF"]
    assert expand("db.gdb") == ["db.gdb"]
    assert expand("odd[1].tif") == ["odd[1].tif"]
    assert expand("**/*.tif") == ["db.gdb/x.tif", "odd[1].tif", "x/a.tif"]
    assert expand("none*.tif") == expand("none.tif") == []
    for url in ("s3://b/*.tif", "/vsizip/a.zip/x.tif", "https://host/a.tif?b=[1]"):
        assert expand(url) == [url]
    with pytest.raises(InputError, match=r"cannot read the list none\.txt"):
        expand("@none.txt")
    (root / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a list of file names"):
        expand("@binary")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("GPKG:a.gpkg:ortho", "GPKG:{}/a.gpkg:ortho"),
        ('NETCDF:"sub/a.nc":red', 'NETCDF:"{}/sub/a.nc":red'),
        ("HDF5:a.h5://red", "HDF5:{}/a.h5://red"),
        ("GTIFF_DIR:2:a.tif", "GTIFF_DIR:2:{}/a.tif"),
        ("/vsizip/a.zip/b.tif", "/vsizip/a.zip/b.tif"),
    ],
)
def test_a_raster_inside_a_file_is_relative_to_the_config(tmp_path, pattern, expected):
    (scene,) = find_scenes(SceneSettings(optical=pattern), str(tmp_path))
    assert scene.optical == (expected.format(tmp_path),)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("GPKG:a.gpkg:ortho", "a_ortho"), ('NETCDF:"a.nc":red', "a_red"), ("HDF5:a.h5://x", "a_x")],
)
def test_a_raster_inside_a_file_names_its_scene(tmp_path, pattern, name):
    assert find_scenes(SceneSettings(optical=pattern), str(tmp_path))[0].id == name


def test_rasters_inside_files_are_found_by_pattern(tmp_path):
    for name in ("x1.gpkg", "x2.gpkg", "dsm_x1.nc", "dsm_x2.nc"):
        (tmp_path / name).touch()
    settings = SceneSettings(optical="GPKG:x{id}.gpkg:ortho", elevation='NETCDF:"dsm_x{id}.nc":z')
    found = find_scenes(settings, str(tmp_path))
    assert [(s.id, s.optical[0], s.elevation[0]) for s in found] == [
        (n, f"GPKG:{tmp_path}/x{n}.gpkg:ortho", f'NETCDF:"{tmp_path}/dsm_x{n}.nc":z') for n in "12"
    ]
