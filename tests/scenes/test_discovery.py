"""Scenes of several files: wildcards, lists, folders, and what cannot be listed."""

from pathlib import Path

import pytest

from cafe_cli.config.schema import SceneSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.scenes.discovery import SceneFiles, expand, find_scenes


@pytest.fixture
def deliver(tmp_path):
    """Make empty files below a folder; return that."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def found(root, **settings):
    scenes = find_scenes(SceneSettings(**settings), str(root))
    streams = ("optical", "elevation", "dtm", "labels")
    return {
        s.id: [[str(Path(p).relative_to(root)) for p in getattr(s, k)] for k in streams]
        for s in scenes
    }


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
    with pytest.raises(InputError, match=r"no file fits scenes\.optical = .*none_\*\.tif"):
        found(root, optical="none_*.tif")
    for key in ("elevation", "dtm", "labels"):
        with pytest.raises(InputError, match=rf"scene a has no {key}: .*b_\*\.tif does not exist"):
            found(root, optical="a.tif", **{"elevation": "a.tif", key: "b_*.tif"})
    with pytest.raises(ConfigError, match=r"scenes\.dtm is the ground .* scenes\.elevation"):
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
    with pytest.raises(InputError, match="is no list of file names"):
        expand("@binary")
