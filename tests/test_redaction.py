import json
import tomllib
from pathlib import Path

import pytest

from cafe_cli.config.load import dump_config, parse_config
from cafe_cli.config.provenance import save_beside
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.redaction import base_name, name_outputs, redact, redact_all, stem
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.tilesets.make import tile
from tests.support.engines import settings

pytest_plugins = ["tests.support.fixtures"]

SECRET = "s3cr3t"
NAMES = {
    "https://user:s3cr3t@host/x.tif": "https://***@host/x.tif",
    "https://s3cr3t@host/x.tif": "https://***@host/x.tif",
    "https://user:s3@cr3t@host:8080/x.tif": "https://***@host:8080/x.tif",
    "ftp://user:s3cr3t@host/x.tif": "ftp://***@host/x.tif",
    "/vsicurl/https://user:s3cr3t@host/x.tif": "/vsicurl/https://***@host/x.tif",
    "https://host/x.tif?X-Amz-Signature=s3cr3t&b=1": "https://host/x.tif?***",
    "https://host/x.tif?sv=1&sig=a%2Bs3cr3t/b=": "https://host/x.tif?***",
    "https://host/x.tif#access_token=s3cr3t": "https://host/x.tif#***",
    "/vsizip/{/vsicurl/https://host/a.zip?sig=s3cr3t}/b.tif":
        "/vsizip/{/vsicurl/https://host/a.zip?***}/b.tif",
    "/vsicurl?url=https%3A%2F%2Fu%3As3cr3t%40host%2Fx.tif%3Fsig%3Ds3cr3t&userpwd=u:s3cr3t":
        "/vsicurl?***&url=https://***@host/x.tif?***",
    "https%3A%2F%2Fuser%3As3cr3t%40host%2Fx.tif": "https%3A%2F%2F***%40host%2Fx.tif",
    "PG:host=h dbname=town user=me password=s3cr3t": "PG:host=h dbname=town user=me password=***",
    "PG:host=h password = 's3cr3t of \\' us' dbname=x": "PG:host=h password = *** dbname=x",
    "postgresql://me:s3cr3t@host/town?sslmode=require": "postgresql://***@host/town?***",
    "MYSQL:town,user=me,password=s3cr3t,host=h": "MYSQL:town,user=me,password=***,host=h",
    "MSSQL:server=h;UID=me;PWD=s3cr3t;database=x": "MSSQL:server=h;UID=me;PWD=***;database=x",
    "OCI:me/s3cr3t@host:town": "OCI:***@host:town",
    "WFS:https://me:s3cr3t@host/wfs?token=s3cr3t": "WFS:https://***@host/wfs?***",
    "PLMOSAIC:mosaic=x,api_key=s3cr3t": "PLMOSAIC:mosaic=x,api_key=***",
    "<GDAL_WMS><UserPwd>me:s3cr3t</UserPwd></GDAL_WMS>":
        "<GDAL_WMS><UserPwd>***</UserPwd></GDAL_WMS>",
}  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_names_are_shown_without_secrets(name, shown):
    assert redact(name) == shown
    assert redact(shown) == shown
    for sentence in (f"cannot open {name}: no", f"'{name}', and", f'["{name}"]', f"({name})."):
        assert redact(sentence) == sentence.replace(name, shown)


@pytest.mark.parametrize(
    "text",
    [
        "town.tif", "/data/what?/a*.tif", "C:\\data\\x.tif", "s3://bucket/key.tif", "tile.size=512",
        "https://host/a/b@2x.tif", "GPKG:x.gpkg:town", "/vsizip/x.zip/a.tif", "author=me",
        "is it a town? 12:30, x = 3", "/vsicurl/https://host/x.tif", 'NETCDF:"x.nc":v',
    ],
)  # fmt: skip
def test_names_without_secrets_stay_as_they_are(text):
    assert redact(text) == text


def test_nested_values_are_redacted_and_keep_their_types():
    name = "https://u:s3cr3t@h/x"
    values = {"a": [name, 1, None], name: (name, True), "c": {"d": {"e": 0.5}}}
    assert redact_all(values) == {
        "a": ["https://***@h/x", 1, None],
        "https://***@h/x": ("https://***@h/x", True),
        "c": {"d": {"e": 0.5}},
    }


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("https://u:s3cr3t@h/a/town.tif?sig=a/b.c", "town.tif"),
        ("/vsicurl?a=1&url=https%3A%2F%2Fh%2Ftown.tif%3Fsig%3D1", "town.tif"),
        ("/vsizip/{/vsicurl/https://h/a.zip?sig=1}/town.tif", "town.tif"),
        ("folder/town.of.tif", "town.of.tif"),
        ("what?.tif", "what?.tif"),
    ],
)
def test_outputs_and_scenes_are_named_without_the_query(name, short):
    if "zip" not in name:
        assert base_name(name) == short
        assert stem(name) == Path(short).stem
    assert SECRET not in base_name(name)


def test_errors_hold_no_secrets():
    for name, shown in NAMES.items():
        assert str(InputError(f"cannot open {name}: no")) == f"cannot open {shown}: no"


URLS = [
    "https://me:s3cr3t@127.0.0.1:9/town.tif",
    "https://127.0.0.1:9/town.tif?X-Amz-Signature=s3cr3t",
    "/vsicurl?url=https%3A%2F%2F127.0.0.1%3A9%2Ftown.tif%3Fsig%3Ds3cr3t",
]


@pytest.mark.parametrize("url", [*URLS, "PG:dbname=town password=s3cr3t"])
def test_files_beside_outputs_hold_no_secrets(url, tmp_path):
    save_beside(tmp_path / "map.tif", {"source": {"optical": (url,), "inputs": [url]}})
    written = (tmp_path / "map.tif.toml").read_text()
    assert tomllib.loads(written)["source"]["optical"] == [redact(url)]
    config = parse_config({"scenes": {"optical": url, "labels": [url]}}, "test")
    assert SECRET not in written + dump_config(config)


@pytest.mark.parametrize("url", URLS)
def test_scenes_are_named_without_secrets(url):
    config = parse_config({"scenes": {"optical": url}}, "test")
    assert [scene.id for scene in find_scenes(config.scenes)] == ["town"]


@pytest.mark.parametrize("url", URLS)
def test_a_virtual_tile_set_does_not_take_names_that_it_would_have_to_hide(url, tmp_path):
    config = settings(scenes__optical=url, scenes__elevation=url, scenes__labels=url)
    with pytest.raises(ConfigError, match="would store the password or the query of") as caught:
        tile(config, tmp_path / "tiles", virtual=True)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "tiles").exists()


@pytest.mark.parametrize("url", URLS)
def test_no_command_says_a_secret(url, tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for words in (
        ("-v", "check", "--optical", url, "--json"),
        ("-v", "check", "--optical", url),
        ("-v", "mosaic", url, "-o", tmp_path / "map.tif"),
        ("-v", "evaluate", url, url),
    ):
        code, said = invoke(*words)
        assert code == 1
        assert "127.0.0.1" in said.out + said.err
        assert SECRET not in said.out + said.err
        if "--json" in words:
            assert not json.loads(said.out)["ok"]


def test_a_name_as_it_was_written_down_is_told_from_one_that_opens():
    from cafe_cli.raster.reader import open_raster

    name = "https://***@host/x.tif"
    with pytest.raises(InputError, match="without its password or token; name it in full"):
        open_raster(name).__enter__()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot write /a/.map.partial.tif: full", "cannot write /a/map.tif: full"),
        ("cannot write .map.partial.tif", "cannot write map.tif"),
        ("cannot write /a/.t.partial/train/a_0.tif: full", "cannot write /a/t/train/a_0.tif: full"),
        ("/a/.map.tif.strips/.0-0-9x9.labels.partial.tif: full", "/a/map.tif: full"),
        ("/a/.map.tif.strips.tif: full", "/a/map.tif: full"),
        ("/a/.my map.partial.tif: full", "/a/my map.tif: full"),
        ("/a/.run.old: busy", "/a/run: busy"),
        ("map.partial.tif, a.old and b.strips.tif stay", None),
        ("/a/.map.tif.strips/journal.jsonl is damaged", None),
        ("remove /a/.map.tif.replacing", None),
    ],
)
def test_messages_name_outputs_not_their_drafts(text, expected):
    assert name_outputs(text) == (expected or text)
