"""Where the commands print their results: stdout, without markup, since names in it come from users."""

from rich.console import Console

out = Console(highlight=False, markup=False)
