"""What the files of a run are called, in the folder that is called as its domain is."""

from .options_file import OPTIONS

BEST, LAST = "best.safetensors", "last.safetensors"
METRICS, SAMPLE_FILE, VALIDATION = "metrics.jsonl", "samples.npy", "validation.npz"
CURVES = "curves.png"  # of runs that can draw
RUN_FILES = (BEST, LAST, METRICS, CURVES, SAMPLE_FILE, VALIDATION, OPTIONS)
