"""From paths to a file: what is named is read, told in chapters, and written as one page."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from da3.runtime.system import VERSION, write_atomically
from da3.toolchain.errors import ReportError
from da3.toolchain.report.bundle_chapter import bundle_chapter
from da3.toolchain.report.bundle_folder import BundleFacts
from da3.toolchain.report.document import Chapter, Report
from da3.toolchain.report.evaluation_chapter import evaluation_chapter
from da3.toolchain.report.judged import Judged
from da3.toolchain.report.page import render
from da3.toolchain.report.run_chapter import run_chapter
from da3.toolchain.report.run_folder import RunFacts
from da3.toolchain.report.side_by_side import evaluations_chapter, runs_chapter
from da3.toolchain.report.sources import Source, read_source
from da3.toolchain.report.thumbnails import Thumbnails
from da3.toolchain.report.words import listed

PICTURES = 12  # photos of each kind that are shown
MOST_PICTURES = 48
_NEEDED = ("jinja2", "matplotlib")

Progress = Callable[[str, int, int], None]


def check_installed() -> None:
    """Raise ReportError, which says what to install, where a package is missing that reports are made with."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ReportError(f"a report needs {listed(missing)}: pip install 'da3[report]'")


def write_report(
    paths: Sequence[str],
    to: Path,
    *,
    runs: Path = Path("runs"),
    photos: str | None = None,
    pictures: int = PICTURES,
    on_progress: Progress = lambda what, done, total: None,
) -> Path:
    """Write a page about everything at ``paths`` to ``to``, whole or not at all, and return its path.

    ``runs``: the folder where a run is looked for by its name. ``photos``: where the photos are, if no longer where
    they were. ``pictures``: how many photos of each kind are shown, 0 for none. Raises Da3Error, OSError if it cannot
    be written.
    """
    check_installed()
    _check(paths, to, pictures)
    on_progress("report", 0, len(paths) + 2)
    sources = []
    for done, path in enumerate(paths, 1):
        sources.append(read_source(path, runs, photos))
        on_progress("report", done, len(paths) + 2)
    chapters = _chapters(sources, photos, pictures)
    on_progress("report", len(paths) + 1, len(paths) + 2)
    page = render(Report(_title(chapters), tuple(chapters), tuple(paths), f"da3 {VERSION}"))
    write_atomically(to, page.encode("utf-8"))
    on_progress("report", len(paths) + 2, len(paths) + 2)
    return to


def _check(paths: Sequence[str], to: Path, pictures: int) -> None:
    if not paths:
        raise ReportError("name what to report of: a run's folder, a bundle, or a file of `da3 evaluate --json`")
    if not 0 <= pictures <= MOST_PICTURES:
        raise ReportError(f"--pictures {pictures}: use a number from 0 to {MOST_PICTURES}")
    if to.is_dir():
        raise ReportError(f"--out {to} is a folder: name a file in it, such as {to / 'report.html'}")
    for path in paths:
        if to.exists() and os.path.exists(path) and os.path.samefile(path, to):
            raise ReportError(f"--out {to} is what the report is of: name another file")


def _chapters(sources: Sequence[Source], photos: str | None, most: int) -> list[Chapter]:
    evaluations = [(s.path, one) for s in sources if isinstance(s.found, tuple) for one in s.found]
    runs = [(s.path, s.found) for s in sources if isinstance(s.found, RunFacts)]
    bundles = [(s.path, s.found) for s in sources if isinstance(s.found, BundleFacts)]
    named = list(zip(evaluation_titles(evaluations), (one for _, one in evaluations), strict=True))
    shown = [Thumbnails((photos or one.folder) if most else None) for _, one in named]
    run_names = _numbered(short_paths([path for path, _ in runs]))
    chapters = []
    if len(named) > 1 and len({one.classes for _, one in named}) == 1:
        chapters.append(evaluations_chapter(named, shown, most))
    if len({run.run.config.classes for _, run in runs}) < len(runs):
        chapters.append(runs_chapter(list(zip(run_names, (found for _, found in runs), strict=True))))
    chapters += [
        evaluation_chapter(one, title, thumbs, most) for (title, one), thumbs in zip(named, shown, strict=True)
    ]
    bundle_names = _numbered(short_paths([path for path, _ in bundles]))
    for name, (_, found) in zip(bundle_names, bundles, strict=True):
        chapters.append(bundle_chapter(found, f"Bundle {name}" if found.manifest is not None else f"Pack {name}"))
    for name, (_, run) in zip(run_names, runs, strict=True):
        folder = run.judged.folder if run.judged is not None and most else None
        chapters.append(run_chapter(run, f"Run {name}", Thumbnails(folder), most))
    return chapters


def evaluation_titles(evaluations: Sequence[tuple[str, Judged]]) -> list[str]:
    """What to call evaluations: by their domains, and by what differs where that is the same."""
    names = [one.name for _, one in evaluations]
    files = short_paths([path for path, _ in evaluations])
    for more in ([_how(one) for _, one in evaluations], files):
        often = Counter(names)
        both = zip(names, more, strict=True)
        names = [f"{name} ({word})" if often[name] > 1 and word else name for name, word in both]
    return _numbered(names)


def short_paths(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    parts = [os.path.normpath(path).split(os.sep) for path in paths]
    names = [one[-1] for one in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        often = Counter(names)
        names = [
            os.sep.join(one[-length:]) if often[name] > 1 else name for name, one in zip(names, parts, strict=True)
        ]
    return names


def _numbered(names: Sequence[str]) -> list[str]:
    often, seen, numbered = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} ({seen[name]})" if often[name] > 1 else name)
    return numbered


def _how(one: Judged) -> str:
    settings = one.evaluation.settings
    if settings.force_all_blocks:
        return "every block"
    return "" if settings.precision in (None, "fp32") else settings.precision


def _title(chapters: Sequence[Chapter]) -> str:
    own = [chapter.title for chapter in chapters if "side by side" not in chapter.title.lower()]
    return listed(own, 3)
