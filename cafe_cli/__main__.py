"""``python -m cafe_cli`` is ``cafe``."""

from cafe_cli.cli import main

main()
