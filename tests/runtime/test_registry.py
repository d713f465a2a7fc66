"""Domains pushed to a real registry and pulled from it: Debian's docker-registry on loopback."""

import hashlib
import json
import shutil
import socket
import subprocess
import urllib.request

import pytest
import synthetic_bundle
from registries import PASSWORD, USER, docker_registry, fake_registry
from registry_docker import docker_configuration

from da3.runtime.app import main
from da3.runtime.bundle import list_domains, write_pack
from da3.runtime.errors import RegistryError
from da3.runtime.registry import pull_domain, push_domain

pytest.importorskip("oras", reason="no oras: pip install 'da3[oci]'")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry") / "served") as served:
        yield served


@pytest.fixture(autouse=True)
def no_docker_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def board(tmp_path):
    """A bundle of the same backbone that has no domains."""
    synthetic_bundle.write_exits_bundle(tmp_path / "board", domains=())
    return tmp_path / "board"


@pytest.fixture(scope="module")
def source(built_with_exits):
    return built_with_exits[0]


@pytest.fixture
def pushed(registry, source, request):
    """flowers, in a repository of this test's own."""
    return push_domain(source, "flowers", f"oci://{registry}/{repository(request)}:v1")


def repository(request):
    return "tests/" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-").replace(
        "--", "-"
    )


def tag(pushed):
    return pushed.pinned.partition("@")[0]


def run(capsys, *words):
    """(exit code, stdout, stderr) of `da3 domains ...`; an error is one line."""
    code = main(["domains", *map(str, words)], program="da3")
    out, err = capsys.readouterr()
    assert code == 0 or (err.startswith("error: ") and err.count("\n") == 1), err
    return code, out, err


def ask(pushed, what, method="GET"):
    """What a plain client is answered of a repository."""
    host, _, repository = tag(pushed)[len("oci://") :].partition(":v1")[0].partition("/")
    headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    url = f"http://{host}/v2/{repository}/{what}"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=10)


def pack(bundle, name, folder):
    folder.mkdir()
    with open(write_pack(bundle, name, folder), "rb") as file:
        return file.read()


def test_pushed_and_pulled_it_is_the_same_pack(registry, source, board, tmp_path, capsys):
    place = f"oci://{registry}/plants/flowers:v1"
    code, out, _ = run(capsys, "push", "flowers", place, "-b", source)
    pinned = out.split()[3]
    assert code == 0 and out.startswith(f"pushed flowers as {place}@sha256:")
    code, out, _ = run(capsys, "pull", place, "-b", board)
    assert code == 0 and out.startswith(f"added flowers from {pinned} (")
    assert pack(board, "flowers", tmp_path / "a") == pack(source, "flowers", tmp_path / "b")
    assert not (board / ".pulling").exists()
    before = len(registry.requests())
    code, out, _ = run(capsys, "pull", pinned, "-b", board)
    assert code == 0 and out == f"flowers is there already, as {pinned} has it\n"
    assert not [path for _, path in registry.requests()[before:] if "/blobs/" in path]


def test_long_ones_say_how_far_they_are(registry, source, board, monkeypatch, capsys):
    from da3.runtime.app import progress

    for name in ("_AFTER_S", "_LINE_EVERY_S"):
        monkeypatch.setattr(progress, name, -1.0)
    place = f"oci://{registry}/progress/flowers:v1"
    assert main(["domains", "push", "flowers", place, "-b", str(source)], program="da3") == 0
    assert set(capsys.readouterr().err.splitlines()) == {"pushed 3 KiB of 3 KiB"}
    assert main(["domains", "pull", place, "-b", str(board)], program="da3") == 0
    assert "pulled 3 KiB of 3 KiB\n" in capsys.readouterr().err
    assert main(["domains", "list", "-b", str(board)], program="da3") == 0
    assert capsys.readouterr().err == "read 0 of 1 domains\n"


def test_what_lies_in_the_registry_is_an_oci_artifact(pushed, source, tmp_path):
    """As the specification's own clients read it."""
    with ask(pushed, "manifests/v1") as answer:
        data = answer.read()
        assert answer.headers["Docker-Content-Digest"] == pushed.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    content = json.loads(data)
    (layer,) = content["layers"]
    expected = pack(source, "flowers", tmp_path / "pack")
    assert layer["digest"] == "sha256:" + hashlib.sha256(expected).hexdigest() and layer["size"] == len(expected)
    assert content["artifactType"] == "application/vnd.da3.domain.v1"
    assert content["annotations"]["da3.domain"] == "flowers" and content["annotations"]["da3.classes"] == "3"
    from oras.client import OrasClient

    (file,) = OrasClient(insecure=True).pull(tag(pushed)[len("oci://") :], outdir=str(tmp_path / "oras"))
    with open(file, "rb") as read:
        assert file.endswith("/flowers.da3") and read.read() == expected


def test_pushing_again_uploads_nothing(registry, pushed, source):
    before = len(registry.requests())
    again = push_domain(source, "flowers", tag(pushed))
    assert again == pushed._replace(uploaded=0)
    assert {method for method, _ in registry.requests()[before:]} == {"HEAD", "GET"}


def test_another_tag_of_the_same_pack_uploads_no_layer(pushed, source):
    assert push_domain(source, "flowers", tag(pushed)[:-2] + "v2")._replace(pinned="") == pushed._replace(
        uploaded=0, pinned=""
    )


def test_a_tag_moves_and_a_digest_does_not(pushed, source, board, capsys):
    code, out, _ = run(capsys, "push", "signs", tag(pushed), "-b", source)
    assert code == 0 and out.endswith(f"\nthe tag stood for {pushed.digest} before\n")
    assert pull_domain(board, tag(pushed)).domain == "signs"
    assert pull_domain(board, pushed.pinned).domain == "flowers"
    assert pull_domain(board, tag(pushed).rpartition(":")[0] + "@" + pushed.digest).domain == "flowers"


def test_another_backbone_is_refused_before_the_layer_is_fetched(registry, pushed, board, capsys):
    manifest = board / "manifest.json"
    content = json.loads(manifest.read_text())
    content["backbone"]["sha256"] = "c" * 64
    manifest.write_text(json.dumps(content))
    before = len(registry.requests())
    code, _, err = run(capsys, "pull", tag(pushed), "-b", board)
    assert code == 1 and "was trained on another backbone (bbbbbbbbbbbb...) than" in err
    assert [path for _, path in registry.requests()[before:] if "/blobs/" in path] == []
    assert list_domains(board) == []


def test_a_domain_of_the_name_is_replaced_only_where_that_is_asked(registry, pushed, board, capsys):
    weights = synthetic_bundle.random_weights(classes=3, seed=9)
    synthetic_bundle.write_exits_domain(board / "domains" / "flowers", "flowers", weights)
    before = len(registry.requests())
    code, _, err = run(capsys, "pull", tag(pushed), "-b", board)
    assert code == 1 and err.endswith("already has a domain flowers; replace it (--replace), or remove it first\n")
    assert [path for _, path in registry.requests()[before:] if "/blobs/" in path] == []
    assert pull_domain(board, tag(pushed), replace=True).added


def test_what_is_not_there(registry, pushed, board, capsys):
    code, _, err = run(capsys, "pull", tag(pushed)[:-2] + "v9", "-b", board)
    assert code == 1 and err == f"error: there is no {tag(pushed)[:-2]}v9 (status 404, MANIFEST_UNKNOWN)\n"
    code, _, err = run(capsys, "pull", f"oci://{registry}/no/such:v1", "-b", board)
    assert code == 1 and err.startswith(f"error: there is no oci://{registry}/no/such:v1 (status 404")
    code, _, err = run(capsys, "pull", tag(pushed) + "@sha256:" + "0" * 64, "-b", board)
    assert code == 1 and "there is no" in err


def test_a_layer_that_is_gone(pushed, board, capsys):
    """As when a tag moved, and what it stood for was deleted, between the manifest and the layer."""
    with ask(pushed, f"manifests/{pushed.digest}") as answer:
        layer = json.load(answer)["layers"][0]["digest"]
    ask(pushed, f"blobs/{layer}", "DELETE").close()
    code, _, err = run(capsys, "pull", tag(pushed), "-b", board)
    assert code == 1 and f"has the manifest of {tag(pushed)} and no longer its layer" in err
    assert list_domains(board) == []


def test_a_registry_that_is_read_only(source, board, tmp_path, capsys):
    with docker_registry(tmp_path / "writable") as writable:
        push_domain(source, "flowers", f"oci://{writable}/plants/flowers:v1")
    with docker_registry(tmp_path / "readonly", root=tmp_path / "writable" / "root", readonly=True) as host:
        assert pull_domain(board, f"oci://{host}/plants/flowers:v1").added
        code, _, err = run(capsys, "push", "signs", f"oci://{host}/plants/signs:v1", "-b", source)
        assert code == 1 and "takes nothing: it is read-only" in err and "status 405" in err


def test_a_registry_that_wants_a_password(source, board, tmp_path, capsys):
    with docker_registry(tmp_path / "closed", password=True) as host:
        place = f"oci://{host}/plants/flowers:v1"
        code, _, err = run(capsys, "push", "flowers", place, "-b", source)
        assert code == 1 and err.endswith(f"(status 401): `docker login {host}`\n")
        docker_configuration(host, USER, "another-word")
        code, _, err = run(capsys, "push", "flowers", place, "-b", source)
        assert code == 1 and "status 401" in err and "another-word" not in err
        docker_configuration(host, USER, PASSWORD)
        assert push_domain(source, "flowers", place).uploaded
        assert pull_domain(board, place).added


def test_a_pull_that_breaks_off_goes_on(registry, pushed, board, capsys):
    """The connection ends amid the layer, three times; then the same command fetches what is missing, and no more."""
    with cutting_proxy(registry, after=1000) as (proxy, _):
        code, _, err = run(capsys, "pull", tag(pushed).replace(registry, proxy), "-b", board)
    assert code == 1 and "kept, and the same command goes on" in err and list_domains(board) == []
    (kept,) = (board / ".pulling").iterdir()
    there = kept.stat().st_size
    assert 0 < there < pushed.bytes
    pulled = pull_domain(board, tag(pushed))
    assert pulled.added and pulled.fetched == pushed.bytes - there
    assert list_domains(board) == ["flowers"] and not (board / ".pulling").exists()


def cutting_proxy(registry, after):
    """A way to the registry on which layers end after so many bytes, and never go on."""
    from registries import Answer

    def answer(method, path, headers):
        asked = urllib.request.Request(f"http://{registry}{path}", headers=dict(headers), method=method)
        if "Range" in headers:
            return Answer(200, b"", cut=0, length=10)
        with urllib.request.urlopen(asked, timeout=10) as found:
            body, kept = found.read(), {"Docker-Content-Digest": found.headers.get("Docker-Content-Digest") or ""}
        return Answer(found.status, body, kept, cut=after if "/blobs/" in path else None)

    return fake_registry(answer)


def test_tls_is_used_and_verified(source, board, tmp_path, monkeypatch, capsys):
    """A host that is not this machine by its name is spoken to by HTTPS alone, and only with a trusted certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, which makes the certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry.test"
    words += f" -addext subjectAltName=DNS:registry.test -keyout {key} -out {certificate}"
    subprocess.run(words.split(), check=True, capture_output=True)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: look_up("127.0.0.1" if host == "registry.test" else host, *more, **named),
    )
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with docker_registry(tmp_path / "tls", tls=(certificate, key)) as host:
        place = f"oci://registry.test:{host.partition(':')[2]}/plants/flowers:v1"
        code, _, err = run(capsys, "push", "flowers", place, "-b", source)
        assert code == 1 and "its certificate is not trusted here" in err
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert push_domain(source, "flowers", place).uploaded
        assert pull_domain(board, place).added
    with docker_registry(tmp_path / "plain") as host, pytest.raises(RegistryError, match="or it speaks no TLS"):
        push_domain(source, "flowers", f"oci://registry.test:{host.partition(':')[2]}/plants/flowers:v1")
