"""`python -m da3.runtime`: arguments in, text and an exit code out. The work is in predict, packs and
doctor."""

import argparse
import json
import os
import sys
import traceback
from typing import List, Optional

from ..errors import Da3Error
from ..execution.choice import NAMES
from ..onnx_graph.subgraphs import PRECISIONS
from .zipapp import bundle_beside, in_own_words, program

_COMMANDS = ("run", "domains", "build", "doctor", "pyz")
_EPILOG = """other commands:
  {0} domains list|add|remove|pack   what a bundle knows
  {0} build                          TensorRT engines, on the device they shall run on
  {0} doctor                         what is installed, and what is wrong with it
  {0} pyz FILE                       this program as one file, for a board
"""


def main(argv: Optional[List[str]] = None) -> int:
    """Exit code: 0 all well, 1 an error (or some images could not be read), 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in _COMMANDS else "run"
    debug = "--debug" in words
    try:
        code = {"run": _run, "domains": _domains, "build": _build, "doctor": _doctor, "pyz": _pyz}[command](words)
        sys.stdout.flush()
        return code
    except Da3Error as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write("error: %s\n" % in_own_words(str(error)))
        return 1
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # Whoever read us (head, less) has left. Python would complain once more when it flushes stdout at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: List[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Run a domain of a bundle on images. A first word `run` may be given.",
        epilog=_EPILOG.format(program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", help="files, folders, globs, .npy arrays, or - for one path a line on stdin")
    _bundle(parser, "bundle directory or zip")
    add("--domain", help="domain of the bundle, or a .da3 pack (default: the only one)")
    add("--json", action="store_true", help="print one JSON object on stdout, and nothing else")
    add("--top-k", type=_at_least(1), default=1, metavar="K", help="labels per image (default: 1)")
    add("--batch-size", type=_at_least(1), default=1, metavar="B", help="images per run (default: 1)")
    add("--force-all-blocks", action="store_true", help="ignore the gates: skip nothing")
    add("--repeat", type=_at_least(1), default=1, metavar="N", help="timed runs of each batch (default: 1)")
    add("--warmup", type=_at_least(0), default=1, metavar="N", help="untimed runs before (default: 1)")
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads (default: the backend's choice)")
    add("--backend", choices=NAMES, default="auto", help="default: tensorrt where engines are built, else onnxruntime")
    add("--precision", choices=PRECISIONS, help="default: fp32 on a CPU, the engines built last on a GPU")
    add("--engines", metavar="FOLDER", help="folder of TensorRT engines (default: in the bundle)")
    _debug(parser)
    options = parser.parse_args(words)
    from .predict import as_json, render, run_engine

    run = run_engine(
        options.images,
        bundle=options.bundle,
        domain=options.domain,
        batch_size=options.batch_size,
        force_all_blocks=options.force_all_blocks,
        repeat=options.repeat,
        warmup=options.warmup,
        threads=options.threads,
        backend=options.backend,
        precision=options.precision,
        engines=options.engines,
    )
    print(json.dumps(as_json(run, options.top_k)) if options.json else render(run, options.top_k))
    if run.failed:
        sys.stderr.write("error: %d of the images could not be read\n" % len(run.failed))
    return 1 if run.failed else 0


def _domains(words: List[str]) -> int:
    parser = argparse.ArgumentParser(prog=program() + " domains", description="List, add, remove or pack domains.")
    actions = parser.add_subparsers(dest="action", metavar="list|add|remove|pack")
    actions.required = True
    parts = {
        name: actions.add_parser(name, help=text, description=text)
        for name, text in (
            ("list", "list a bundle's domains"),
            ("add", "add a domain pack to a bundle directory"),
            ("remove", "delete a domain from a bundle directory"),
            ("pack", "write a domain of the bundle as a pack"),
        )
    }
    for part in parts.values():
        _bundle(part, "bundle directory, or zip to read")
        _debug(part)
    parts["add"].add_argument("pack", help="a .da3 file, or a folder with domain.json")
    parts["add"].add_argument("--replace", action="store_true", help="replace a domain of the same name")
    parts["remove"].add_argument("name")
    parts["pack"].add_argument("name")
    parts["pack"].add_argument("--out", default=".", help="file or folder to write (default: ./<name>.da3)")
    options = parser.parse_args(words)
    from ..bundle.packs import add_pack, list_domains, remove_domain, write_pack

    if options.action == "list":
        print("\n".join(list_domains(options.bundle)) or "no domains yet")
    elif options.action == "add":
        print("added %s" % add_pack(options.bundle, options.pack, options.replace).name)
    elif options.action == "remove":
        remove_domain(options.bundle, options.name)
        print("removed %s" % options.name)
    else:
        print("wrote %s" % write_pack(options.bundle, options.name, options.out))
    return 0


def _build(words: List[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=program() + " build",
        description="Build a bundle's TensorRT engines, once for all of its domains. Ctrl-C keeps what is built, once "
        "the engine under way is; the same command goes on.",
    )
    add = parser.add_argument
    _bundle(parser, "bundle directory")
    add("--precision", choices=("fp16", "fp32", "int8"), default="fp16", help="default: fp16")
    add("--batch", default="1:8", metavar="N:MAX", help="tune for N images, take up to MAX at a time (default: 1:8)")
    add("--workspace", metavar="SIZE", help="memory TensorRT may work in, such as 512MB (default: 1GB at most)")
    add("--force", action="store_true", help="build all again")
    add("--engines", metavar="FOLDER", help="where to put the engines (default: in the bundle)")
    _debug(parser)
    options = parser.parse_args(words)
    from ..trt.build import build_engines
    from .texts import parse_batch, parse_bytes, render_progress, render_report

    report = build_engines(
        options.bundle,
        precision=options.precision,
        batch=parse_batch(options.batch),
        workspace_bytes=None if options.workspace is None else parse_bytes(options.workspace),
        progress=lambda step: print(render_progress(step), flush=True),
        force=options.force,
        engines=options.engines,
    )
    print(render_report(report))
    return 0


def _doctor(words: List[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=program() + " doctor", description="What is installed here, and what is wrong with it."
    )
    parser.add_argument("--bundle", default=bundle_beside(), help="also read this bundle and verify every file in it")
    _debug(parser)
    options = parser.parse_args(words)
    from .doctor import examine, render

    report = examine()
    print(render(report))
    if options.bundle is not None:
        from ..bundle.bundle import Bundle
        from ..trt.store import describe_sets

        with Bundle(options.bundle) as bundle:
            bundle.verify()
            print("bundle %s: every file as it should be; domains: %s" % (bundle.path, ", ".join(bundle.domains)))
            print(describe_sets(bundle))
    return 1 if report.problems else 0


def _pyz(words: List[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=program() + " pyz", description="Write this program as one file, which any python3 with numpy runs."
    )
    parser.add_argument("file", help="file or folder to write (a folder gets run_engine.pyz)")
    _debug(parser)
    options = parser.parse_args(words)
    from .zipapp import write_run_engine

    print("wrote %s" % write_run_engine(options.file))
    return 0


def _bundle(parser: argparse.ArgumentParser, what: str) -> None:
    default = bundle_beside() or "bundle"
    parser.add_argument("--bundle", default=default, help="%s (default: %%(default)s)" % what)


def _debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


class _at_least:
    """argparse type: an integer not below a minimum."""

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = self._minimum - 1
        if value < self._minimum:
            raise argparse.ArgumentTypeError("%r is not an integer of at least %d" % (text, self._minimum))
        return value
