"""``python -m cafe_cli`` is ``cafe``."""

from cafe_cli.cli.main import main

main()
