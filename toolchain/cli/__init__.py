"""The ``da3`` console script. Its entry point is ``da3.toolchain.cli.main``; nothing else imports this room."""
