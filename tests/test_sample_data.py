from pathlib import Path

import pytest

from cafe_cli import sample_data
from cafe_cli.config.load import load_config
from cafe_cli.errors import InputError, OutputError
from cafe_cli.sample_data import SAMPLE_CONFIG, SAMPLE_DATA, copy_sample, find_sample


def test_the_sample_data_are_found_in_the_clone_and_in_a_wheel(tmp_path, monkeypatch):
    clone = Path(sample_data.__file__).parents[1]
    assert find_sample() == clone
    assert Path(load_config(clone / SAMPLE_CONFIG).root) == clone / SAMPLE_DATA

    package = tmp_path / "cafe_cli"
    copy_sample(package / "_sample")
    monkeypatch.setattr(sample_data, "__file__", str(package / "sample_data.py"))
    assert find_sample() == package / "_sample"


def test_sample_data_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_data, "__file__", str(tmp_path / "cafe_cli" / "sample_data.py"))
    with pytest.raises(InputError, match=r"no sample data beside .*cafe_cli; install cafe again"):
        copy_sample(tmp_path / "town")
    assert not (tmp_path / "town").exists()


def test_a_copy_is_whole_and_its_config_names_it(tmp_path):
    town = tmp_path / "town"
    copy_sample(town)
    source = find_sample()
    copied = {path.relative_to(town): path.read_bytes() for path in town.rglob("*.t*")}
    assert copied == {name: (source / name).read_bytes() for name in copied}
    assert len(copied) == 13  # config and rasters
    assert Path(load_config(town / SAMPLE_CONFIG).root) == town / SAMPLE_DATA


def test_a_copy_replaces_nothing_but_a_copy(tmp_path):
    town = tmp_path / "town"
    copy_sample(town)
    with pytest.raises(OutputError, match="town exists; pass --overwrite"):
        copy_sample(town)
    (town / SAMPLE_CONFIG).write_text("epochs = 1")
    copy_sample(town, overwrite=True)
    assert "classes" in (town / SAMPLE_CONFIG).read_text()

    (town / SAMPLE_DATA / "my_labels.gpkg").write_text("mine")
    with pytest.raises(OutputError, match=r"holds sample_data/my_labels\.gpkg besides the sample"):
        copy_sample(town, overwrite=True)
    file = tmp_path / "notes"
    file.write_text("mine")
    with pytest.raises(OutputError, match="notes is a file; name a folder"):
        copy_sample(file, overwrite=True)
    assert file.read_text() == "mine"
