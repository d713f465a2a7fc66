"""Commands ended by SIGKILL: at random moments, and before any one of their file operations. See `make kills`."""
