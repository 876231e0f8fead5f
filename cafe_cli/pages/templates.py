"""The Jinja environment of a page, and the style that all pages share."""

from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cafe_cli.text import percent

_SHARED = "cafe_cli.pages"


def make_environment(package: str) -> Environment:
    """Return an environment with the templates of a package, and those of all pages.

    It escapes values that are not marked safe, and a value that is missing is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(_SHARED, ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = lambda title: title.lower().replace(" ", "-")
    environment.filters["share"] = percent
    return environment


def read_style() -> str:
    """Return the CSS that all pages share."""
    return files(_SHARED).joinpath("page.css").read_text(encoding="utf-8")
