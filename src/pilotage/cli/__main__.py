"""``python -m pilotage.cli``: the command without its script."""

from pilotage.cli.main import main

main()
