from typing import Literal, get_args, get_origin

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cafe_cli.cli.main import cli
from cafe_cli.cli.mosaic import METHODS
from cafe_cli.cli.options import GROUND_OPTIONS, SCENE_OPTIONS, ConfigOption, take_overrides
from cafe_cli.cli.predict import IMAGE_OPTIONS, PREDICT_OPTIONS, SURFACE_OPTIONS
from cafe_cli.cli.train import TRAIN_OPTIONS
from cafe_cli.config.schema import Config
from cafe_cli.mosaic import methods

COMMANDS = {
    "tile": SCENE_OPTIONS, "check": SCENE_OPTIONS, "train": TRAIN_OPTIONS,
    "heights": GROUND_OPTIONS,
    "predict": (*IMAGE_OPTIONS, *SURFACE_OPTIONS, *PREDICT_OPTIONS),
}  # fmt: skip
OPTIONS = [*SCENE_OPTIONS, *TRAIN_OPTIONS, *PREDICT_OPTIONS]


def parts(annotation: object) -> list[object]:
    """Return the annotation and everything in it."""
    return [annotation, *(inner for part in get_args(annotation) for inner in parts(part))]


def field_of(option: ConfigOption) -> FieldInfo:
    """Return the field of the config key that an option overrides."""
    section, key = option.key.split(".")
    models = parts(Config.model_fields[section].annotation)
    (model,) = (m for m in models if isinstance(m, type) and issubclass(m, BaseModel))
    return model.model_fields[key]


def annotation_of(option: ConfigOption) -> list[object]:
    """Return the parts of the annotation of the config key that an option overrides."""
    return parts(field_of(option).annotation)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_an_option_takes_what_its_config_key_takes(option):
    found = annotation_of(option)
    choices = [get_args(part) for part in found if get_origin(part) is Literal]
    if option.choices:
        assert choices == [option.choices]
    elif option.type is str:
        # Text is parsed by the config, or the callback.
        assert option.callback or choices or str in found or float in found
    else:
        assert not choices
        assert option.type in found


# What applies where the config does not set these keys depends on others, or on the files.
IN_WORDS = {
    "scenes.bands": "all but alpha",
    "tile.overlap": "a quarter of --size",
    "train.devices": "what torchrun or srun started, else 1",
    "train.num_nodes": "what torchrun or srun started, else 1",
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_the_help_of_an_option_states_the_default_of_its_config_key(option):
    default = field_of(option).get_default()
    values = default if isinstance(default, tuple) else (default,)
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    expected = None if default in (None, PydanticUndefined) else ",".join(shown)
    assert option.default == IN_WORDS.get(option.key, expected)


@pytest.mark.parametrize(("name", "options"), COMMANDS.items(), ids=COMMANDS)
def test_a_command_offers_its_options(name, options):
    offered = {p.opts[0]: p for p in cli.commands[name].params}
    for option in options:
        parameter = offered[option.flag]
        assert (parameter.name, parameter.help) == (option.parameter, option.help)
        if option.choices:
            assert isinstance(parameter.type, click.Choice)
            assert tuple(parameter.type.choices) == option.choices


def test_overrides_are_taken_from_the_parameters():
    given = {option.parameter: None for option in TRAIN_OPTIONS} | {"epochs": 0, "other": 1}
    assert take_overrides(TRAIN_OPTIONS, given) == {"train.epochs": 0}
    assert given == {"other": 1}


def test_methods_of_a_mosaic():
    assert set(METHODS) == set(methods.METHODS)
