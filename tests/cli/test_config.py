import json
import tomllib

import click
import pytest
from click.testing import CliRunner

from cafe_cli.cli.main import cli
from cafe_cli.config.choices import READ_BY
from cafe_cli.config.load import load_config
from cafe_cli.errors import OutputError

pytest_plugins = ["tests.support.fixtures"]


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, ["config", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_config_is_printed_or_written(tmp_path):
    path = tmp_path / "new" / "town.toml"
    assert run("-o", str(path)) == ""
    assert path.read_text(encoding="utf-8") == run()
    assert load_config(path).train.epochs == 60
    with pytest.raises(OutputError, match="--overwrite"):
        run("-o", str(path))
    run("train", "-o", str(path), "--overwrite")
    assert path.read_text(encoding="utf-8") == run("train")
    assert "[tile]" not in run("train")


def test_the_schema_is_json():
    assert (
        json.loads(run("--schema"))["properties"]["train"]["properties"]["epochs"]["minimum"] == 1
    )


@pytest.mark.parametrize("form", ["--schema", "--markdown"])
def test_a_schema_is_that_of_all_commands(form):
    result = CliRunner().invoke(cli, ["config", "train", form])
    assert result.exit_code == 2
    assert f"{form} describes all settings: leave out 'train'" in result.stderr


def test_an_unknown_command_is_named():
    result = CliRunner().invoke(cli, ["config", "info"])
    assert result.exit_code == 2
    assert "'info' is not one of" in result.stderr


def test_every_command_with_a_config_says_what_it_reads():
    with_config = {
        name
        for name, command in cli.commands.items()
        if any(isinstance(p, click.Option) and "--config" in p.opts for p in command.params)
    }
    assert set(READ_BY) == with_config


def test_predict_reads_its_section_and_options_override_it(invoke, scenes, model, tmp_path):
    config = tmp_path / "map.toml"
    config.write_text('[predict]\nwindow = 64\noverlap = 0\nblend = "crop"\nscales = [1, 0.5]\n')
    words = ["predict", model, "--optical", scenes / "a_ortho.tif", "-o", tmp_path / "map.tif"]
    more = ["-c", config, "--set", "predict.overlap=32", "--blend", "gaussian"]
    code, captured = invoke(*words, "--elevation", scenes / "a_dsm.tif", *more)
    assert code == 0, captured.err
    made = tomllib.loads((tmp_path / "map.tif.toml").read_text(encoding="utf-8"))
    assert made["predict"]["blend"] == "gaussian"
    assert made["predict"]["scales"] == [1, 0.5]
    assert (made["predict"]["window"], made["predict"]["overlap"]) == (64, 32)


def test_predict_refuses_a_config_with_an_error(invoke, scenes, model, tmp_path):
    config = tmp_path / "map.toml"
    config.write_text("[predict]\nwindows = 64\n")
    words = ["predict", model, "--optical", scenes / "a_ortho.tif", "-o", tmp_path / "map.tif"]
    code, captured = invoke(*words, "-c", config)
    assert code == 2
    assert "unknown key 'predict.windows', did you mean 'window'?" in captured.err
