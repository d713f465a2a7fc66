"""How good a domain is, and what it costs: answers to labelled photos, scores from them, two of them compared."""

from .answering import Answered, Evaluation, Settings, evaluate
from .comparison import Comparison, Verdict, compare, exact_mcnemar
from .foreign import Foreign, ask_foreign
from .labelled import LabelledPhotos, read_labelled
from .record import FORMAT, Earlier, as_csv, as_record, describe, open_record, read_record, verdicts
from .scores import ClassScore, ExitScore, Scores, score, wilson_interval

__all__ = [
    "FORMAT",
    "Answered",
    "ClassScore",
    "Comparison",
    "Earlier",
    "Evaluation",
    "ExitScore",
    "Foreign",
    "LabelledPhotos",
    "Scores",
    "Settings",
    "Verdict",
    "as_csv",
    "as_record",
    "ask_foreign",
    "compare",
    "describe",
    "evaluate",
    "exact_mcnemar",
    "open_record",
    "read_labelled",
    "read_record",
    "score",
    "verdicts",
    "wilson_interval",
]
