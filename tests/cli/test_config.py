import json

import click
import pytest
from click.testing import CliRunner

from cafe_cli.cli.main import cli
from cafe_cli.config.choices import READ_BY
from cafe_cli.config.load import load_config
from cafe_cli.errors import OutputError


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
