"""Run ``python -m tnet_cli`` as the command ``tnet``."""

from tnet_cli.cli.app import main

main()
