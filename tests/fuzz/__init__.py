"""Files and command lines that were damaged on purpose, and what da3 makes of them: see README.md."""
