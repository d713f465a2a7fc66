"""The command line, as `python -m da3`."""

from da3.toolchain.cli.main import main

if __name__ == "__main__":
    main()
