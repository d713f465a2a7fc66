"""Registries that lie, lead elsewhere, fall silent or send without end; and what they get to see of a password."""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import synthetic_bundle
from hostile import within
from registries import PASSWORD, USER, Answer, fake_registry
from registry_docker import docker_configuration

from da3.runtime.app import main
from da3.runtime.bundle import list_domains, read_pack, write_pack
from da3.runtime.errors import InUseError, RegistryError
from da3.runtime.registry import guard, pull, pull_domain, push_domain
from da3.runtime.registry.artifact import PACK_LIMIT, write_artifact
from da3.runtime.registry.partial import kept_partial

pytest.importorskip("oras", reason="no oras: pip install 'da3[oci]'")

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(autouse=True)
def no_docker_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def board(tmp_path):
    synthetic_bundle.write_exits_bundle(tmp_path / "board", domains=())
    return tmp_path / "board"


@pytest.fixture(scope="module")
def source(built_with_exits):
    return built_with_exits[0]


@pytest.fixture(scope="module")
def pack(source, tmp_path_factory):
    path = write_pack(source, "flowers", tmp_path_factory.mktemp("pack"))
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def manifest(source, pack, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "flowers.da3"
    path.write_bytes(pack)
    return write_artifact(read_pack(path), digest_of(pack), len(pack))


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def one_line(capsys, *words):
    """What `da3 domains ...` says as it fails: a line."""
    code = main(["domains", *map(str, words)], program="da3")
    err = capsys.readouterr().err
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 500, err
    return err


def untouched(board):
    return list_domains(board) == [] and not (board / ".pulling").exists()


def serving(manifest, layer=None, **more):
    """Answers a pull: with this manifest, and what `layer` gives for the headers."""

    def answer(method, path, headers):
        if "/manifests/" in path:
            return Answer(200, manifest, **more)
        return layer(headers) if callable(layer) else Answer(200, layer)

    return answer


def changed(manifest, *keys, to):
    content = json.loads(manifest)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("keys", "to", "says"),
    [
        (("artifactType",), "application/vnd.acme.rocket", "is no domain of da3's, but of the type 'application/vnd.a"),
        (("artifactType",), None, "is no domain of da3's, but of the type 'application/vnd.oci.image.manifest.v1+json"),
        (("artifactType",), 7, "is no domain of da3's"),
        (("schemaVersion",), 1, "schemaVersion must be 2, not 1"),
        (("layers",), [], "has 0 layers; a domain's pack is one"),
        (("layers",), [{}] * 5000, "has 5000 layers"),
        (("layers",), {"0": 1}, "layers must be a list"),
        (("layers", 0, "size"), 10**12, f"has 1000000000000 bytes, and a pack 1 to {PACK_LIMIT / 2**20:.1f} MiB"),
        (("layers", 0, "size"), -1, "its layer has -1 bytes"),
        (("layers", 0, "size"), "many", "size must be an integer"),
        (("layers", 0, "size"), True, "size must be an integer, not true"),
        (("layers", 0, "digest"), "sha256:" + "0" * 63, "is not sha256: and 64 digits"),
        (("layers", 0, "digest"), "sha256:../../../../etc/passwd", "is not sha256: and 64 digits"),
        (("layers", 0, "mediaType"), "text/html", "its layer is of the type 'text/html'"),
        (("annotations",), None, "annotations is missing"),
        (("annotations", "da3.domain"), "../flowers", "da3.domain is no name of a domain: '../flowers'"),
        (("annotations", "da3.domain"), "a\x1b[2Jb", "is no name of a domain: 'a\\x1b[2Jb'"),
        (("annotations", "da3.backbone.sha256"), "B" * 64, "da3.backbone.sha256 is no SHA-256"),
        (("annotations", "da3.classes"), "-3", "da3.classes is no number of classes: '-3'"),
        (("annotations", "da3.classes"), 3, "da3.classes must be a string"),
    ],
)
def test_manifests_that_are_none(manifest, board, capsys, keys, to, says):
    with fake_registry(serving(changed(manifest, *keys, to=to))) as (host, seen):
        assert says in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert len(seen) == 1 and untouched(board)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not valid JSON"),
        (b"<html>no registry</html>", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"artifactType": "a", "artifactType": "b"}', "stands twice"),
        (b"{}" + b" " * 300_000, "it has more than 256 KiB"),
        (
            b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}',
            "of the type",
        ),
        (b"[]", "must be an object"),
    ],
)
def test_manifests_that_are_no_json(board, capsys, data, says):
    with fake_registry(serving(data)) as (host, _):
        assert says in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert untouched(board)


def test_a_manifest_without_end(board, capsys):
    with fake_registry(serving(itertools.repeat(b" " * 65536))) as (host, _), within(8):
        assert "more than 1.0 MiB" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert untouched(board)


def test_a_manifest_of_another_digest_than_was_asked_for(manifest, board, capsys):
    with fake_registry(serving(manifest)) as (host, seen):
        pinned = f"oci://{host}/plants/flowers:v1@sha256:{'0' * 64}"
        assert "answers with another manifest (sha256:" in one_line(capsys, "pull", pinned, "-b", board)
        assert seen[0][1].endswith("/manifests/sha256:" + "0" * 64)
    with fake_registry(serving(manifest, headers={"Docker-Content-Digest": "sha256:" + "1" * 64})) as (host, _):
        place = f"oci://{host}/plants/flowers:v1"
        assert "than sha256:111111111111..." in one_line(capsys, "pull", place, "-b", board)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda pack: Answer(200, pack + b"x"), "sends more than the"),
        (lambda pack: Answer(200, itertools.chain([pack], itertools.repeat(b"x" * 65536))), "sends more than the"),
        (lambda pack: Answer(200, pack[:-1] + b"x"), "sends other bytes (sha256:"),
        (lambda pack: Answer(204), "answers with status 204"),
        (
            lambda pack: Answer(206, pack, {"Content-Range": "bytes 0-9/10"}),
            "sends another part of the layer than asked",
        ),
    ],
)
def test_layers_that_lie(manifest, pack, board, capsys, layer, says):
    with fake_registry(serving(manifest, lambda headers: layer(pack))) as (host, _), within(8):
        assert says in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert untouched(board)


@pytest.mark.parametrize("what", ["other name", "other backbone", "other classes", "no pack"])
def test_a_pack_that_is_not_what_its_manifest_says(what, source, manifest, board, tmp_path, capsys):
    """The bundle was asked whether it wants what the manifest says."""
    weights = synthetic_bundle.random_weights(classes=3)
    changes = {"other backbone": {"backbone_sha256": "c" * 64}, "other classes": {"classes": ["a", "b", "c", "d"]}}
    name = "tulips" if what == "other name" else "flowers"
    folder = tmp_path / "bundle"
    synthetic_bundle.write_exits_bundle(folder, domains=())
    synthetic_bundle.write_exits_domain(folder / "domains" / name, name, weights)
    with open(write_pack(folder, name, tmp_path), "rb") as file:
        data = file.read()
    if what in changes:
        import zipfile

        from hostile import zip_of

        with zipfile.ZipFile(tmp_path / f"{name}.da3") as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        members["domain.json"] = json.dumps(dict(json.loads(members["domain.json"]), **changes[what])).encode()
        data = zip_of(tmp_path / "lying.da3", members, zipfile.ZIP_STORED).read_bytes()
    elif what == "no pack":
        data = b"PK no zip at all"
    said = changed(changed(manifest, "layers", 0, "digest", to=digest_of(data)), "layers", 0, "size", to=len(data))
    with fake_registry(serving(said, data)) as (host, _):
        err = one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert ("is no pack that da3 takes" if what == "no pack" else "nothing was added") in err
    assert untouched(board)


def parts_of(pack, sent):
    """Answers Range, a thousand bytes an answer, which then breaks off; notes what was asked for."""

    def layer(headers):
        start = int((headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        sent.append(start)
        more = {"Content-Range": f"bytes {start}-{len(pack) - 1}/{len(pack)}"} if start else {}
        return Answer(206 if start else 200, pack[start:], more, cut=1000)

    return layer


def test_a_connection_that_breaks_off_is_made_again(manifest, pack, board):
    sent = []
    with fake_registry(serving(manifest, parts_of(pack, sent))) as (host, _):
        pulled = pull_domain(board, f"oci://{host}/plants/flowers:v1")
    assert sent == list(range(0, len(pack), 1000)) and pulled.fetched == len(pack)
    assert list_domains(board) == ["flowers"] and not (board / ".pulling").exists()


def test_a_registry_that_gives_no_parts(manifest, pack, board, monkeypatch):
    """What was there already is sent once more, and not taken twice."""
    monkeypatch.setattr(pull, "_FRUITLESS", 1)
    cut = [1000, None]
    with fake_registry(serving(manifest, lambda headers: Answer(200, pack, cut=cut.pop(0)))) as (host, _):
        assert pull_domain(board, f"oci://{host}/plants/flowers:v1").added
    assert list_domains(board) == ["flowers"]


def test_a_registry_that_breaks_off_without_end(manifest, pack, board, monkeypatch):
    monkeypatch.setattr(pull, "_BREAKS", 5)
    asked = []

    def layer(headers):
        asked.append(headers.get("Range"))
        return Answer(200, pack, cut=len(asked))

    going_on = pytest.raises(RegistryError, match="the same command goes on")
    with fake_registry(serving(manifest, layer)) as (host, _), going_on:
        pull_domain(board, f"oci://{host}/plants/flowers:v1")
    assert len(asked) == 5


def test_what_was_kept_and_is_damaged_is_fetched_again(manifest, pack, board):
    (board / ".pulling").mkdir()
    for kept in (b"y" * 1000, b"y" * len(pack), b"y" * (len(pack) + 1)):
        (board / ".pulling" / digest_of(pack)[7:]).write_bytes(kept)
        sent = []
        with fake_registry(serving(manifest, parts_of(pack, sent))) as (host, _):
            assert pull_domain(board, f"oci://{host}/plants/flowers:v1", replace=True).domain == "flowers"
        assert 0 in sent
        assert list_domains(board) == ["flowers"]
        import shutil

        shutil.rmtree(board / "domains" / "flowers")
        (board / ".pulling").mkdir(exist_ok=True)


def test_ctrl_c_keeps_what_came(manifest, pack, board):
    """In the middle of the layer; the next pull fetches the rest."""
    sent = []

    def stop(done, total):
        raise KeyboardInterrupt

    with fake_registry(serving(manifest, parts_of(pack, sent))) as (host, _):
        place = f"oci://{host}/plants/flowers:v1"
        with pytest.raises(KeyboardInterrupt):
            pull_domain(board, place, progress=stop)
        assert list_domains(board) == []
        assert (board / ".pulling" / digest_of(pack)[7:]).read_bytes() == pack[:1000]
        assert pull_domain(board, place).fetched == len(pack) - 1000


def test_a_killed_pull_goes_on(manifest, board, capsys):
    """kill -9 amid the layer; what had come and was written is not asked for again. The layer is a large one that is no
    pack: buffers are smaller than it."""
    layer, asked = os.urandom(200_000), []
    said = changed(changed(manifest, "layers", 0, "digest", to=digest_of(layer)), "layers", 0, "size", to=len(layer))
    kept = board / ".pulling" / digest_of(layer)[7:]
    ended = threading.Event()

    def drip():
        for at in range(0, 100_000, 10_000):
            yield layer[at : at + 10_000]
        ended.wait(20)

    def slowly(headers):
        asked.append(headers.get("Range"))
        if asked[1:]:
            start = int(asked[-1][len("bytes=") : -1])
            told = {"Content-Range": f"bytes {start}-{len(layer) - 1}/{len(layer)}"}
            return Answer(206, layer[start:], told)
        return Answer(200, drip())

    with fake_registry(serving(said, slowly)) as (host, _):
        words = ["-m", "da3.runtime", "domains", "pull", f"oci://{host}/plants/flowers:v1", "-b", str(board)]
        pulling = subprocess.Popen([sys.executable, *words], env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
        until = time.monotonic() + 30
        while not (kept.exists() and kept.stat().st_size > 50_000) and time.monotonic() < until:
            time.sleep(0.01)
        pulling.kill()
        pulling.wait(10)
        ended.set()
        there = kept.stat().st_size
        assert "is no pack that da3 takes" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert asked == [None, f"bytes={there}-"] and there > 50_000


def test_a_full_disk_is_said(manifest, pack, board, capsys, monkeypatch):
    import errno

    from da3.runtime.registry.partial import Partial

    def full(self, piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Partial, "append", full)
    with fake_registry(serving(manifest, pack)) as (host, _):
        assert "No space left" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert untouched(board)


def test_a_zipped_bundle_is_not_pulled_into(board, tmp_path, capsys):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", board)
    assert "unzip it first" in one_line(capsys, "pull", "oci://127.0.0.1:9/plants/flowers:v1", "-b", archive)


def test_two_pulls_of_one_layer_do_not_meet(manifest, pack, board):
    from da3.runtime.bundle import Bundle

    with fake_registry(serving(manifest, pack)) as (host, _), Bundle(board) as opened:
        refused = pytest.raises(InUseError, match="is being pulled by another process")
        with kept_partial(opened, digest_of(pack)), refused:
            pull_domain(board, f"oci://{host}/plants/flowers:v1")
        assert pull_domain(board, f"oci://{host}/plants/flowers:v1").added


def test_what_nobody_goes_on_with_is_removed(manifest, pack, board):
    (board / ".pulling").mkdir()
    old, new = board / ".pulling" / ("a" * 64), board / ".pulling" / ("b" * 64)
    for path in (old, new):
        path.write_bytes(b"some")
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    with fake_registry(serving(manifest, pack)) as (host, _):
        pull_domain(board, f"oci://{host}/plants/flowers:v1")
    assert not old.exists() and new.exists()


def test_nothing_is_written_behind_a_link(manifest, pack, board, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (board / ".pulling").symlink_to(tmp_path / "elsewhere")
    with fake_registry(serving(manifest, pack)) as (host, _):
        assert "is a link" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    (board / ".pulling").unlink()
    (board / ".pulling").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    (board / ".pulling" / digest_of(pack)[7:]).symlink_to(tmp_path / "file")
    with fake_registry(serving(manifest, pack)) as (host, _):
        assert "is a link" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert (tmp_path / "file").read_bytes() == b"mine" and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://192.0.2.1/v2/", "leads to http://192.0.2.1: plain HTTP is for registries on this machine alone"),
        ("http://registry.example.com/v2/", "leads to http://registry.example.com: plain HTTP"),
        ("ftp://127.0.0.1/v2/", "leads to what is no address of HTTP"),
        ("file:///etc/passwd", "leads to what is no address of HTTP"),
        ("http://127.0.0.1:99999/", "leads to what is no address of HTTP"),
        ("http://[::1", ""),
        ("/again", "redirects in a circle"),
    ],
)
@pytest.mark.parametrize("way", ["manifest", "upload", "redirected upload"])
def test_where_a_registry_may_not_lead(location, says, way, source, board, capsys):
    def answer(method, path, headers):
        if way == "upload" and method == "POST":
            return Answer(202, b"", {"Location": location})
        return Answer(404 if method == "HEAD" else 307, b"", {"Location": location})

    with fake_registry(answer) as (host, seen):
        place = f"oci://{host}/plants/flowers:v1"
        words = ("pull", place, "-b", board) if way == "manifest" else ("push", "flowers", place, "-b", source)
        err = one_line(capsys, *words)
    if way == "upload" and location == "/again":
        assert "redirects in a circle" in err  # of the PUT there
    else:
        assert says in err
    assert len(seen) < 12 and untouched(board)


@pytest.mark.parametrize("way", ["redirect", "upload"])
def test_a_password_goes_to_no_other_host(way, source, board, manifest, pack):
    """A redirect, or the Location of an upload, leads to another port: the request arrives there without it."""

    def elsewhere(method, path, headers):
        return Answer(201) if method == "PUT" else Answer(200, manifest if "manifests" in path else pack)

    with fake_registry(elsewhere) as (other, seen_there):

        def answer(method, path, headers):
            if headers.get("Authorization") != f"Basic {BASIC}":
                return Answer(401, b"{}", {"Www-Authenticate": 'Basic realm="plants"'})
            if way == "upload" and method == "POST":
                return Answer(202, b"", {"Location": f"http://{other}/upload"})
            return Answer(404 if method == "HEAD" else 307, b"", {"Location": f"http://{other}{path}"})

        with fake_registry(answer) as (host, seen):
            docker_configuration(host, USER, PASSWORD)
            place = f"oci://{host}/plants/flowers:v1"
            if way == "upload":
                assert push_domain(source, "flowers", place).uploaded
            else:
                assert pull_domain(board, place).added
    assert any(headers.get("Authorization") for _, _, headers in seen)
    assert seen_there and not any("Authorization" in headers for _, _, headers in seen_there)


def test_a_basic_challenge_names_no_host(board):
    """Its realm is a word for people: nothing is sent there, whatever it says."""
    with fake_registry(lambda *asked: Answer(200, b'{"token": "t"}')) as (other, seen_there):
        challenge = {"Www-Authenticate": f'Basic realm="http://{other}/token"'}
        with fake_registry(lambda *asked: Answer(401, b"{}", challenge)) as (host, _):
            docker_configuration(host, USER, PASSWORD)
            with pytest.raises(RegistryError, match="wants a user and a password that it accepts"):
                pull_domain(board, f"oci://{host}/plants/flowers:v1")
    assert seen_there == []


@pytest.mark.parametrize("known", [True, False])
def test_tokens_are_asked_for_each_right(known, source, manifest):
    """The token service is another host; a token to read is no token to write, and neither goes anywhere else."""
    rights = {"pull": "reader", "pull,push": "writer"}

    def service(method, path, headers):
        if known and headers.get("Authorization") != f"Basic {BASIC}":
            return Answer(401, b"{}")
        right = "pull,push" if "push" in path else "pull"
        return Answer(200, json.dumps({"token": rights[right]}).encode())

    with fake_registry(service) as (tokens, asked):

        def answer(method, path, headers):
            right = "pull" if method in ("GET", "HEAD") else "pull,push"
            allowed = ["Bearer reader", "Bearer writer"] if right == "pull" else ["Bearer writer"]
            if headers.get("Authorization") not in allowed:
                scope = f"repository:plants/flowers:{right}"
                challenge = f'Bearer realm="http://{tokens}/token",service="plants",scope="{scope}"'
                return Answer(401, b"{}", {"Www-Authenticate": challenge})
            if method == "HEAD":
                return Answer(404)
            headers = {"Location": "/v2/upload?state=1"} if method == "POST" else {}
            return Answer(202 if method == "POST" else 201, b"", headers)

        with fake_registry(answer) as (host, seen):
            if known:
                docker_configuration(host, USER, PASSWORD)
            assert push_domain(source, "flowers", f"oci://{host}/plants/flowers:v1").uploaded
    assert len(asked) == 2 and not any(BASIC in headers.get("Authorization", "") for _, _, headers in seen)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a\\nX-Evil: 1"}', b'{"token": null}', b"<html>"]
)
def test_token_services_that_give_none(body, board, capsys):
    with fake_registry(lambda *asked: Answer(200, body)) as (tokens, _):
        challenge = {"Www-Authenticate": f'Bearer realm="http://{tokens}/token",service="plants"'}
        with fake_registry(lambda *asked: Answer(401, b"{}", challenge)) as (host, seen):
            err = one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    assert "answers with no token" in err or "status 401" in err
    assert len(seen) == 1


@pytest.mark.parametrize("realm", ["", "http://192.0.2.1/token", "ftp://x", "token.example.com/token"])
def test_token_services_that_nothing_is_sent_to(realm, board, capsys):
    challenge = {"Www-Authenticate": f'Bearer realm="{realm}"'}
    with fake_registry(lambda *asked: Answer(401, b"{}", challenge)) as (host, _):
        docker_configuration(host, USER, PASSWORD)
        assert "leads to" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "UNAUTHORIZED", "wants a user and a password that it accepts (status 401, UNAUTHORIZED): `docker login"),
        (403, "DENIED", "does not let you pull plants/flowers (status 403, DENIED)"),
        (404, "NAME_UNKNOWN", "has no repository plants/flowers"),
        (404, "not a code\\n", "there is no oci://"),
        (418, "TEAPOT", "refuses to pull oci://"),
        (429, "TOOMANYREQUESTS", "has had too many requests from here"),
        (500, "UNKNOWN", "failed (status 500, UNKNOWN): try again later"),
        (503, "x" * 5000, "failed (status 503): try again later"),
    ],
)
def test_refusals_say_why_and_show_no_password(status, code, says, board, capsys):
    """The registry repeats what it was sent; with --debug, there is a traceback too."""

    def answer(method, path, headers):
        known = headers.get("Authorization")
        if not known:
            return Answer(401, b"{}", {"Www-Authenticate": 'Basic realm="plants"'})
        message = f"{PASSWORD} {known}"
        body = f'{{"errors": [{{"code": "{code}", "message": "{message}"}}], "password": "{PASSWORD}"}}'
        return Answer(status, body.encode())

    with fake_registry(answer) as (host, seen):
        docker_configuration(host, USER, PASSWORD)
        code = main(["domains", "pull", f"oci://{host}/plants/flowers:v1", "-b", str(board), "--debug"], program="da3")
    out, err = capsys.readouterr()
    assert code == 1 and says in err.splitlines()[-1] and "Traceback" in err
    assert seen[-1][2]["Authorization"] == f"Basic {BASIC}" and len(seen) == 2
    assert not any(secret in out + err for secret in (PASSWORD, BASIC, USER))


def test_a_signed_address_is_not_shown(board, capsys):
    """A storage behind a registry is led to with a signature in the address, which is as good as a password."""
    with fake_registry(lambda *asked: Answer()) as (gone, _):
        pass
    location = f"http://{gone}/blob?Signature={PASSWORD}"
    with fake_registry(lambda *asked: Answer(307, b"", {"Location": location})) as (host, _):
        code = main(["domains", "pull", f"oci://{host}/plants/flowers:v1", "-b", str(board), "--debug"], program="da3")
    out, err = capsys.readouterr()
    assert code == 1 and "nothing listens there" in err and "Traceback" in err and PASSWORD not in out + err


def test_a_silent_registry_is_not_waited_for(board, capsys, monkeypatch):
    monkeypatch.setattr(guard, "SILENCE_S", 0.2)
    waiting = threading.Event()

    def answer(method, path, headers):
        waiting.wait(5)
        return Answer(200, b"{}")

    with fake_registry(answer) as (host, _):
        start = time.monotonic()
        assert "fell silent" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
        assert time.monotonic() - start < 3
        waiting.set()


def test_an_answer_in_drops_is_not_waited_for(board, capsys, monkeypatch):
    monkeypatch.setattr(guard, "ANSWER_S", 0.3)

    def drops():
        for _ in range(100):
            time.sleep(0.05)
            yield b" "

    with fake_registry(lambda *asked: Answer(200, drops())) as (host, _):
        start = time.monotonic()
        assert "took more than" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
        assert time.monotonic() - start < 3


def test_hosts_that_are_not_there(board, capsys):
    with fake_registry(lambda *asked: Answer()) as (host, _):
        pass
    assert "nothing listens there" in one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
    place = "oci://no-such-host.invalid/plants/flowers:v1"
    assert "no host of this name is known" in one_line(capsys, "pull", place, "-b", board)


def test_a_host_that_does_not_answer(board, capsys, monkeypatch):
    """A port whose queue is full, as of a machine behind a firewall that drops all."""
    import socket

    monkeypatch.setattr(guard, "CONNECT_S", 0.2)
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        assert "does not answer: no connection within" in one_line(capsys, "pull", f"oci://{host}/a/b:v1", "-b", board)


def test_what_speaks_no_http(board, capsys):
    import socketserver

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1000)
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 3)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        one_line(capsys, "pull", f"oci://{host}/plants/flowers:v1", "-b", board)
        server.shutdown()


def test_neither_netrc_nor_a_proxy_is_used_on_this_machine(manifest, pack, board, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    redirect = serving(manifest, pack)

    def answer(method, path, headers):
        if "elsewhere" not in path:
            return Answer(307, b"", {"Location": path.replace("/v2/", "/v2/elsewhere/")})
        return redirect(method, path, headers)

    with fake_registry(answer) as (host, seen):
        assert pull_domain(board, f"oci://{host}/plants/flowers:v1").added
    assert len(seen) == 4 and not any("Authorization" in headers or "Cookie" in headers for _, _, headers in seen)
