"""The commands of the runtime: words in, text and an exit code out.

`da3`, `python -m da3.runtime` and run_engine.pyz share them: what a command is called, takes and says is here, once.
The work is in predict, packs, build, learn, selftest and doctor, which are loaded when they are asked for.
"""

import argparse
import json
import os
import sys
from typing import Callable, List, NamedTuple, NoReturn, Optional

from ..errors import Da3Error, printable
from ..execution.choice import NAMES
from ..onnx_graph.subgraphs import PRECISIONS
from ..system.versions import VERSION
from .printing import say, warnings_in_a_line
from .program import bundle_beside, in_words_of, program_name


class _Parser(argparse.ArgumentParser):
    """One whose errors quote the words that were typed so that they harm no terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class Command(NamedTuple):
    """One command. arguments: what stands behind its name in a list of commands; help: what it does, in a line;
    details: what its own help says beyond that, where {0} is the command as it is typed; add_options: declares its
    options; run: does it and returns the exit code."""

    name: str
    arguments: str
    help: str
    details: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(words: Optional[List[str]] = None, program: Optional[str] = None) -> int:
    """Run the command that the words begin with; without one they are those of `run-engine`.

    program: how help and errors call what was started. Exit code: 0 all well, 1 an error (or some images could not be
    read), 2 wrong usage (SystemExit), 130 interrupted.
    """
    words = list(sys.argv[1:] if words is None else words)
    program = program_name() if program is None else program
    debug = "--debug" in words
    while words[:1] == ["--debug"]:
        words = words[1:]
    try:
        with warnings_in_a_line():
            code = _run_command(words, program)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output (head, less) has left. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Da3Error, OSError) as error:
        if debug:
            _print_traceback()
        sys.stderr.write("error: %s\n" % in_words_of(program, str(error)))
        return 1
    except KeyboardInterrupt:
        if debug:
            _print_traceback()
        sys.stderr.write("interrupted\n")
        return 130


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def is_for_the_runtime(words: List[str]) -> bool:
    """Do the words that follow `da3` begin with a command of the runtime, or ask for the version?"""
    first = next((word for word in words if word != "--debug"), None)
    return first in _BY_WORD or first == "--version"


def parser(command: Command, typed: str) -> argparse.ArgumentParser:
    """What the command takes. typed: what its help calls it, such as "da3 build"."""
    made = _Parser(
        prog=typed,
        description="%s\n\n%s" % (command.help, command.details.format(typed)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_options(made)
    return made


def _run_command(words: List[str], program: str) -> int:
    if words and words[0] in _BY_WORD:
        command = _BY_WORD[words[0]]
        made = parser(command, "%s %s" % (program, command.name))
        if command.run is _learn:
            from .configuration import take_defaults

            take_defaults(made, command.name, words[1:])
        return command.run(_parsed(made, words[1:]))
    bare = parser(RUN_ENGINE, program)
    bare.epilog = _other_commands(program)
    bare.add_argument("--version", action="version", version="da3 %s" % VERSION)
    return RUN_ENGINE.run(_parsed(bare, words))


def _parsed(made: argparse.ArgumentParser, words: List[str]) -> argparse.Namespace:
    """The options. Images may stand on both sides of an option, for which argparse has no way in Python 3.6."""
    options, rest = made.parse_known_args(words)
    images = getattr(options, "images", None)
    unknown = []
    files_only = False
    for word in rest:
        if word == "--" and images is not None:
            files_only = True
        elif images is not None and (files_only or word == "-" or not word.startswith("-")):
            images.append(word)
        else:
            unknown.append(word)
    if unknown:
        made.error("unrecognized arguments: %s" % " ".join(unknown))
    return options


def _other_commands(program: str) -> str:
    others = [(" ".join((program, c.name, c.arguments)), c.help) for c in COMMANDS if c is not RUN_ENGINE]
    width = max(len(typed) for typed, _ in others)
    lines = ["  %-*s  %s" % (width, typed, help_text) for typed, help_text in others]
    return "run-engine may be given as a first word. Other commands:\n%s" % "\n".join(lines)


def _add_run_engine(parser: argparse.ArgumentParser) -> None:
    from .stream_options import add_stream_options

    add = parser.add_argument
    add("images", nargs="+", help="files, folders, globs, .npy arrays, or - for one path a line on stdin; or a stream")
    _add_bundle(parser, "bundle folder or zip")
    add("-d", "--domain", help="a domain of the bundle, or a .da3 pack (default: the only one)")
    add("--json", action="store_true", help="print one JSON object on stdout, and nothing else there")
    add("--save-json", metavar="FILE", help="write that object to a file")
    add("--save-csv", metavar="FILE", help="write a row for each image")
    add("--save-pictures", metavar="FOLDER", help="write each picture with its answer on it")
    add(
        "--unsure-below",
        type=_within(0, 1),
        metavar="P",
        help="copy pictures whose probability is below, such as 0.6, and unknown ones",
    )
    add(
        "--to",
        metavar="FOLDER",
        help="where --unsure-below copies to: a subfolder for each class",
    )
    add(
        "--unknown-below",
        type=_within(0, 1),
        metavar="SHARE",
        help="say unknown of pictures stranger than all but this share of the domain's own (default: its own, 0.05)",
    )
    add("--top-k", type=_at_least(1), default=1, metavar="K", help="labels to print per image (default: 1)")
    add("--batch-size", type=_at_least(1), default=1, metavar="B", help="images per run of the engine (default: 1)")
    add("--force-all-blocks", action="store_true", help="skip nothing, and leave at no exit")
    add("--repeat", type=_at_least(1), metavar="N", help="to measure: timed runs of each batch (default: 1)")
    add(
        "--warmup",
        type=_at_least(0),
        metavar="N",
        help="to measure: untimed runs before the first batch of each size (default: 1 with --repeat, else 0)",
    )
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads (default: the backend's choice)")
    _add_engine(parser)
    add_stream_options(parser.add_argument_group("for streams").add_argument, _at_least)
    _add_debug(parser)


def _run_engine(options: argparse.Namespace) -> int:
    from .stream_options import stream_asked

    if stream_asked(options):
        from .stream import stream_and_say

        return stream_and_say(options)
    return _predict_photos(options)


def _predict_photos(options: argparse.Namespace) -> int:
    from ..execution.timing import Repeated, run_once
    from .opening import Opening
    from .predict import predict
    from .report import as_json, render
    from .saving import as_csv, check_writable, write_text

    for option, file in (("--save-json", options.save_json), ("--save-csv", options.save_csv)):
        if file is not None:
            check_writable(file, option)
    results = None
    if any(value is not None for value in (options.save_pictures, options.unsure_below, options.to)):
        from .results import Results, Wanted

        results = Results(Wanted(options.save_pictures, options.unsure_below, options.to))

    run = run_once
    if options.repeat is not None or options.warmup is not None:
        warmup = options.warmup if options.warmup is not None else 1
        run = Repeated(options.repeat or 1, warmup)
    done = predict(
        options.images,
        Opening.of(options),
        batch_size=options.batch_size,
        force_all_blocks=options.force_all_blocks,
        run=run,
        on_prediction=results,
        unknown_below=options.unknown_below,
    )
    if options.save_json is not None:
        write_text(options.save_json, json.dumps(as_json(done, options.top_k)) + "\n", "--save-json")
    if options.save_csv is not None:
        write_text(options.save_csv, as_csv(done), "--save-csv")
    say(json.dumps(as_json(done, options.top_k)) if options.json else render(done, options.top_k))
    if results is not None and not options.json:
        say("\n".join(results.summary()))
    if done.failed:
        sys.stderr.write("error: %d of the images could not be read\n" % len(done.failed))
    return 1 if done.failed else 0


def _add_domains(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="list|info|add|remove|pack|push|pull")
    actions.required = True
    added = {
        name: actions.add_parser(name, help=text, description=text)
        for name, text in (
            ("list", "list a bundle's domains with their classes, accuracy, block FLOPs run, exits and closed blocks"),
            ("info", "tell all that is known of a domain: classes, figures, exits, and where it comes from"),
            ("add", "add a domain pack to a bundle; one made for another backbone is refused"),
            ("remove", "delete a domain from a bundle"),
            ("pack", "write a domain of a bundle as NAME.da3, to be added to a bundle on a device"),
            ("push", "put a domain of a bundle into an OCI registry, as Docker's are; prints its digest"),
            ("pull", "add a domain of a registry to a bundle; goes on where an earlier pull broke off"),
        )
    }
    for action in added.values():
        _add_bundle(action, "bundle folder, or zip to read")
        _add_debug(action)
    added["info"].add_argument("name", help="domain of the bundle, or a .da3 pack")
    added["info"].add_argument("--json", action="store_true", help="print one JSON object on stdout")
    added["add"].add_argument("pack", help="a .da3 pack, or a folder with domain.json")
    added["add"].add_argument("--replace", action="store_true", help="replace a domain of the same name")
    added["remove"].add_argument("name", help="domain to delete from the bundle")
    added["pack"].add_argument("name", help="domain of the bundle")
    added["push"].add_argument("name", help="domain of the bundle")
    added["push"].add_argument("reference", help="oci://HOST/REPOSITORY:TAG")
    added["pull"].add_argument("reference", help="oci://HOST/REPOSITORY:TAG, or ...@sha256:DIGEST for those very bytes")
    added["pull"].add_argument("--replace", action="store_true", help="replace a domain of the same name")
    added["pack"].add_argument("--out", default=".", help="file or folder to write (default: ./NAME.da3)")


def _domains(options: argparse.Namespace) -> int:
    from ..bundle.packs import add_pack, remove_domain, write_pack
    from .domains import describe_domains

    if options.action == "list":
        text, broken = describe_domains(options.bundle)
        say(text)
        if broken:
            sys.stderr.write(
                "error: %s cannot be read: add the pack again with --replace, or remove the domain\n"
                % ", ".join(broken)
            )
            return 1
    elif options.action == "info":
        from .domain_info import domain_info, render_info

        info = domain_info(options.bundle, options.name)
        say(json.dumps(info) if options.json else render_info(info))
    elif options.action == "add":
        say("added %s" % add_pack(options.bundle, options.pack, options.replace).name)
    elif options.action == "remove":
        remove_domain(options.bundle, options.name)
        say("removed %s" % options.name)
    elif options.action == "pack":
        say("wrote %s" % write_pack(options.bundle, options.name, options.out))
    else:
        from .registry import pull_and_say, push_and_say

        (push_and_say if options.action == "push" else pull_and_say)(options)
    return 0


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_bundle(parser, "bundle folder")
    add("--precision", choices=("fp16", "fp32", "int8"), default="fp16", help="default: fp16")
    add("--batch", default="1:8", metavar="N:MAX", help="tune for N images, take up to MAX at a time (default: 1:8)")
    add(
        "--workspace",
        metavar="SIZE",
        help="memory TensorRT may work in, such as 512MB (10^6 bytes) or 512MiB (2^20 bytes; default: 1GiB at most)",
    )
    add("--force", action="store_true", help="build all again")
    add("--engines", metavar="FOLDER", help="folder to put the engines in (default: in the bundle)")
    _add_debug(parser)


def _build(options: argparse.Namespace) -> int:
    from ..system.sizes import parse_bytes
    from ..trt.build import build_engines
    from .texts import parse_batch, render_progress, render_report

    report = build_engines(
        options.bundle,
        precision=options.precision,
        batch=parse_batch(options.batch),
        workspace_bytes=None if options.workspace is None else parse_bytes(options.workspace, "--workspace"),
        progress=lambda step: say(render_progress(step)),
        force=options.force,
        engines=options.engines,
    )
    say(render_report(report))
    return 0


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    help_text = "also read this bundle and verify every file in it"
    parser.add_argument("-b", "--bundle", default=bundle_beside(), help=help_text)
    _add_debug(parser)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine, render

    report = examine()
    say(render(report))
    if options.bundle is not None:
        from ..bundle.bundle import Bundle
        from ..trt.store import describe_sets

        with Bundle(options.bundle) as bundle:
            bundle.verify()
            say("bundle %s: every file as it should be; domains: %s" % (bundle.path, ", ".join(bundle.domains)))
            say(describe_sets(bundle))
    return 1 if report.problems else 0


def _add_pyz(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="file or folder to write (a folder gets run_engine.pyz)")
    _add_debug(parser)


def _pyz(options: argparse.Namespace) -> int:
    from .zipapp import write_run_engine

    say("wrote %s" % write_run_engine(options.file))
    return 0


def _add_learn(parser: argparse.ArgumentParser) -> None:
    from ..learning.running import BACKENDS, PRECISIONS
    from .configuration import add_config

    add = parser.add_argument
    add("photos", nargs="?", help="folder of photos: train/ and val/ with a subfolder per class, or just those")
    add("-d", "--domain", required=True, help="what to call the domain")
    _add_bundle(parser, "bundle folder, whose backbone is used and where the domain is put")
    add("--epochs", type=int, metavar="N", help="passes over the photos (default: 15)")
    add("--keep", type=float, metavar="SHARE", help="share of the blocks' FLOPs to run on average, such as 0.7")
    add("--batch-size", type=int, metavar="B", help="photos a step (default: 16, fewer for under 128 photos)")
    add("--lr", type=float, help="highest learning rate (default: 0.004)")
    add("--seed", type=int, help="same seed, same result (default: 0)")
    add("--no-flip", dest="flip", action="store_false", default=None, help="mirror no photos: for signs and letters")
    add("--label-smoothing", type=float, metavar="S", help="default: 0.1")
    add("--micro-batch", metavar="N", help="photos that are run at once; fewer take less memory (default: auto)")
    add("--memory-budget", metavar="SIZE", help="such as 160MB, of the whole process: measures, and picks what fits")
    add(
        "--backend",
        choices=("auto",) + BACKENDS,
        default="auto",
        help="default: onnxruntime, or tensorrt where that is not installed; cuda is ONNX Runtime's CUDA provider",
    )
    add("--precision", choices=PRECISIONS, help="of a training step with --backend tensorrt (default: fp32)")
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads (default: the cores there are)")
    add("--workers", type=_at_least(1), metavar="N", help="decoding threads (default: one a core, 4 at most)")
    add("--runs", default="runs", metavar="FOLDER", help="folder of checkpoints (default: %(default)s)")
    add_config(parser)
    add("--resume", action="store_true", help="go on with a stopped run, with its own options")
    add("--overwrite", action="store_true", help="replace an earlier run and the domain of this name")
    add(
        "--from",
        dest="start",
        metavar="DOMAIN",
        help="start from a trained domain: a run in --runs, a domain of the bundle, or a pack; classes may be added",
    )
    add("-v", "--verbose", action="store_true", help="also say the options in effect, and what each epoch took")
    add("-q", "--quiet", action="store_true", help="no progress: only problems, and the result")
    _add_debug(parser)


def _learn(options: argparse.Namespace) -> int:
    from .learn import learn_and_say

    return learn_and_say(options)


def _add_selftest(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_bundle(parser, "bundle folder or zip")
    add("--quick", action="store_true", help="fewer runs, the first domain alone, and nothing is built")
    add("--out", default="selftest-report.json", metavar="FILE", help="the report (default: %(default)s)")
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads (default: the backend's choice)")
    _add_engine(parser)
    help_text = "a stage that says nothing for so long is stopped (default: %(default)s)"
    add("--timeout", type=_at_least(1), default=600, metavar="SECONDS", help=help_text)
    _add_debug(parser)


def _selftest(options: argparse.Namespace) -> int:
    from .selftest import selftest_and_say

    return selftest_and_say(options)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("photos", help="folder with a subfolder per class, or CSV of path,label")
    _add_bundle(parser, "bundle folder or zip")
    add("-d", "--domain", help="a domain of the bundle, or a .da3 pack (default: the only one)")
    add("--json", metavar="FILE", help="write everything, each photo's answer too; - is stdout, and nothing else there")
    add("--csv", metavar="FILE", help="write a row for each photo")
    add("--unknown", metavar="FOLDER", help="pictures that are none of the domain's: are they told from its own?")
    add("--min-accuracy", type=_within(0, 100), metavar="PERCENT", help="exit code 3 if top-1 is below, such as 85")
    add("--against", metavar="OTHER", help="compare with this domain or pack, or with what an earlier --json wrote")
    add("--against-precision", choices=PRECISIONS, help="compare with this precision")
    add("--against-backend", choices=NAMES, help="compare with this backend")
    add("--against-bundle", metavar="BUNDLE", help="compare with this bundle")
    add("--against-all-blocks", action="store_true", help="compare with running every block and leaving at no exit")
    add("--batch-size", type=_at_least(1), default=1, metavar="B", help="photos per run of the engine (default: 1)")
    add("--force-all-blocks", action="store_true", help="skip nothing, and leave at no exit")
    add(
        "--workers",
        type=_at_least(0),
        metavar="N",
        help="decoding threads (default: one a core, 4 at most); 0 decodes in turn with the engine: fair latencies",
    )
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads of the engine (default: the backend's choice)")
    _add_engine(parser)
    _add_debug(parser)


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluate import evaluate_and_say

    return evaluate_and_say(options)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--triton", required=True, metavar="REPO", help="folder of the repository, made where it is not there")
    add("-b", "--bundle", help="bundle folder or zip (default: %s)" % (bundle_beside() or "bundle"))
    help_text = "a domain of the bundle, or a .da3 pack; may be repeated (default: all of the bundle)"
    add("-d", "--domain", action="append", default=[], help=help_text)
    add("--remove", action="append", default=[], metavar="DOMAIN", help="take it out of the repository")
    add("--backend", choices=NAMES, help="of the server: default as of run-engine")
    add("--precision", choices=PRECISIONS, help="default: fp32 on a CPU, the engines built last on a GPU")
    add("--threads", type=_at_least(1), metavar="N", help="CPU threads of the engine (default: the backend's choice)")
    add(
        "--batch-size", type=_at_least(1), metavar="B", help="pictures of one domain per run of the engine (default: 8)"
    )
    help_text = "domains in memory; others are read when they are asked for (default: all)"
    add("--hold", dest="domains_held", type=_at_least(1), metavar="N", help=help_text)
    _add_debug(parser)


def _pack(options: argparse.Namespace) -> int:
    from .pack import pack_and_say

    return pack_and_say(options, bundle_beside() or "bundle")


def _add_bundle(parser: argparse.ArgumentParser, what: str) -> None:
    default = bundle_beside() or "bundle"
    parser.add_argument("-b", "--bundle", default=default, help="%s (default: %%(default)s)" % what)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    """Which engine predicts."""
    add = parser.add_argument
    add("--backend", choices=NAMES, default="auto", help="default: tensorrt where engines are built, else onnxruntime")
    add("--precision", choices=PRECISIONS, help="default: fp32 on a CPU, the engines built last on a GPU")
    add("--engines", metavar="FOLDER", help="folder of TensorRT engines (default: in the bundle)")


def _add_debug(parser: argparse.ArgumentParser) -> None:
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


class _within:
    """argparse type: a number from low to high."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = self._low - 1
        if not self._low <= value <= self._high:
            raise argparse.ArgumentTypeError("%r is not a number from %g to %g" % (text, self._low, self._high))
        return value


RUN_ENGINE = Command(
    "run-engine",
    "IMAGES|STREAM",
    "Predict photos, a camera or a video with a domain of a bundle.",
    "Each photo is run once, and the latency printed is that of these runs. For a\n"
    "figure to compare use --repeat, since the first runs of an engine are slower.\n"
    "Exit code 1 if an image could not be read; the others are still predicted.\n\n"
    "A stream is /dev/video0, csi://0 (a Jetson's ribbon cable), rtsp://..., http://... or a\n"
    "video file, one alone. The newest frame is answered; of a file every frame is. Ctrl-C\n"
    "ends it, exit code 0. Streams need OpenCV.\n\n"
    "Example: {0} --domain flowers some.jpg more/\n"
    "Example: {0} --domain flowers rtsp://camera/1 --smooth 5 --jsonl log.jsonl",
    _add_run_engine,
    _run_engine,
)
DOMAINS = Command(
    "domains",
    "list|info|add|remove|pack|push|pull",
    "List, describe, add, remove, pack, push or pull domains.",
    "push and pull speak to an OCI registry, such as Docker's, and need pip install 'da3[oci]'.\n\n"
    "Example: {0} add flowers.da3 --bundle bundle\n"
    "Example: {0} push flowers oci://registry.example.com/plants/flowers:v3\n"
    "Example: {0} pull oci://registry.example.com/plants/flowers:v3 --replace",
    _add_domains,
    _domains,
)
BUILD = Command(
    "build",
    "",
    "Build a bundle's TensorRT engines on the device itself.",
    "An engine runs only on the kind of device it was built on, and serves all domains\n"
    "of the bundle, later ones too. Ctrl-C keeps what is built once the engine under\n"
    "way is finished; the same command goes on.\n\n"
    "Example: {0} --bundle bundle --precision fp16",
    _add_build,
    _build,
)
DOCTOR = Command(
    "doctor",
    "",
    "Say what is installed here, and what is wrong with it.",
    "Exit code 1 if there is a problem, such as onnxruntime beside onnxruntime-gpu.\n\nExample: {0} --bundle bundle",
    _add_doctor,
    _doctor,
)
PYZ = Command(
    "pyz",
    "FILE",
    "Write this runtime as one file, for a board.",
    "Any python3 with numpy runs it. Every bundle that da3 exports has it already, as\n"
    "run_engine.pyz.\n\n"
    "Example: {0} run_engine.pyz",
    _add_pyz,
    _pyz,
)
LEARN = Command(
    "learn",
    "PHOTOS",
    "Learn a domain from photos; put it into the bundle.",
    "Needs numpy, Pillow or OpenCV, and ONNX Runtime or TensorRT; no PyTorch. Checkpoints\n"
    "go to RUNS/DOMAIN. Ctrl-C saves; --resume ends as if uninterrupted.\n\n"
    "Example: {0} --domain mushrooms photos/mushrooms",
    _add_learn,
    _learn,
)
SELFTEST = Command(
    "selftest",
    "",
    "Prove here that engines compute what the bundle means.",
    "It times them, too. Each stage runs in a process of its own, so a crash is found.\n"
    "Exit code 1 if anything failed. The report is a JSON file, and a text beside it; please\n"
    "attach both to an issue.\n\n"
    "Example: {0} --bundle bundle --quick",
    _add_selftest,
    _selftest,
)
EVALUATE = Command(
    "evaluate",
    "PHOTOS",
    "Score a domain on labelled photos, and what it costs.",
    "PHOTOS is a folder with a subfolder per class (or val/ with those), or a CSV of\n"
    "path,label. Scores by class, calibration, block FLOPs, exits and latency; --against\n"
    "another domain, precision or earlier evaluation adds a paired test.\n"
    "Exit code 3 if accuracy is below --min-accuracy, 1 if a photo could not be read.\n\n"
    "Example: {0} photos/flowers/val --domain flowers --json flowers.json\n"
    "Example: {0} photos/flowers/val --domain flowers --against-all-blocks",
    _add_evaluate,
    _evaluate,
)
PACK = Command(
    "pack",
    "--triton REPO",
    "Write domains as models for Triton Inference Server.",
    "REPO/models is the model repository: a model for each domain, and da3_runtime, which\n"
    "they share. A server that runs sees what is added, replaced or removed when it polls, or is\n"
    "told to load it. Settings that are not given stay as they were.\n\n"
    "Example: {0} --triton served --bundle bundle\n"
    "Example: {0} --triton served --domain mushrooms.da3",
    _add_pack,
    _pack,
)
COMMANDS = (RUN_ENGINE, EVALUATE, DOMAINS, BUILD, LEARN, DOCTOR, SELFTEST, PYZ, PACK)
_BY_WORD = dict({command.name: command for command in COMMANDS}, run=RUN_ENGINE)
