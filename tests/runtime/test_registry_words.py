"""References as they are typed, and credentials as Docker's configuration has them."""

import base64
import os
import sys

import pytest
from registry_docker import docker_configuration, write_configuration

from da3.runtime.app import main
from da3.runtime.errors import RegistryError
from da3.runtime.registry import parse_reference
from da3.runtime.registry.credentials import find_credentials

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("oci://ghcr.io/plants/flowers:v1", "ghcr.io", "plants/flowers", "v1", None),
        ("oci://localhost:5000/f:1.0", "localhost:5000", "f", "1.0", None),
        (f"oci://[::1]:5000/a/b__c/d-e:v1@{DIGEST}", "[::1]:5000", "a/b__c/d-e", "v1", DIGEST),
        (f"oci://127.3.2.1/a@{DIGEST}", "127.3.2.1", "a", None, DIGEST),
    ],
)
def test_references(text, host, repository, tag, digest):
    found = parse_reference(text)
    assert found == (host, repository, tag, digest) and str(found) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ghcr.io/plants/flowers:v1", "it starts with oci://"),
        ("https://ghcr.io/plants/flowers:v1", "it starts with oci://"),
        ("", "it starts with oci://"),
        ("oci://ghcr.io/plants/flowers", "says neither tag nor digest"),
        ("oci://ghcr.io", "is no name of a repository"),
        ("oci://ghcr.io/Plants:v1", "is no name of a repository"),
        ("oci://ghcr.io/../flowers:v1", "is no name of a repository"),
        ("oci://ghcr.io/a//b:v1", "is no name of a repository"),
        ("oci://ghcr.io/a?x=1:v1", "is no name of a repository"),
        ("oci://ghcr.io/" + "a" * 250 + ":v1", "is no name of a repository"),
        ("oci://ghcr.io/a:", "is no tag"),
        ("oci://ghcr.io/a:v1/b", "is no tag"),
        ("oci://ghcr.io/a:" + "v" * 129, "is no tag"),
        ("oci://ghcr.io/a:v1\n", "is no tag"),
        ("oci://ghcr.io:99999/a:v1", "is no host"),
        ("oci://ghcr.io:/a:v1", "is no host"),
        ("oci:///a:v1", "is no host"),
        ("oci://gh_cr/a:v1", "is no host"),
        ("oci://a b/a:v1", "is no host"),
        ("oci://ghcr.io/a:v1@sha256:12", "a digest is sha256: and 64"),
        ("oci://ghcr.io/a@sha256:" + "A" * 64, "a digest is sha256: and 64"),
        (f"oci://ghcr.io/a@{DIGEST}0", "a digest is sha256: and 64"),
    ],
)
def test_what_is_no_reference(text, says):
    with pytest.raises(RegistryError, match=says) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 481


@pytest.mark.parametrize(
    "text", ["oci://gardener:wild-rose-7@ghcr.io/a:v1", "https://gardener:wild-rose-7@ghcr.io/a:v1"]
)
def test_a_reference_with_a_password_is_not_repeated(text, capsys):
    assert main(["domains", "pull", text, "-b", "bundle", "--debug"], program="da3") == 1
    out, err = capsys.readouterr()
    assert "holds no user and no password" in err and "rose" not in out + err and "gardener" not in out + err


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000"])
def test_this_machine(host):
    assert parse_reference(f"oci://{host}/a:v1").scheme == "http"


@pytest.mark.parametrize(
    "host",
    [
        "localhost.example.com",
        "128.0.0.1",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "127.1",
        "[::2]",
        "[::ffff:10.0.0.1]",
    ],
)
def test_other_machines(host):
    assert parse_reference(f"oci://{host}/a:v1").scheme == "https"


def test_a_push_wants_a_tag(exits_bundle, capsys):
    for place in (f"oci://ghcr.io/a@{DIGEST}", f"oci://ghcr.io/a:v1@{DIGEST}"):
        assert main(["domains", "push", "flowers", place, "-b", str(exits_bundle)], program="da3") == 1
        assert "push to a tag, such as oci://ghcr.io/a:v1" in capsys.readouterr().err


def test_without_oras_it_says_what_to_do(exits_bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "oras", None)
    monkeypatch.setitem(sys.modules, "oras.client", None)
    assert main(["domains", "pull", "oci://ghcr.io/a:v1", "-b", str(exits_bundle)], program="da3") == 1
    err = capsys.readouterr().err
    assert "need the package oras: pip install 'da3[oci]'" in err and "`da3 domains add FILE`" in err
    assert err.count("\n") == 1


@pytest.fixture(autouse=True)
def docker(tmp_path, monkeypatch):
    """A folder for Docker's configuration, and one on PATH for helpers."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


def helper(folder, name, script):
    path = folder / "bin" / f"docker-credential-{name}"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def found(host):
    credentials = find_credentials(host)
    return None if credentials is None else (credentials.user, credentials.password)


def test_without_a_configuration_nobody_is_known():
    assert found("ghcr.io") is None
    write_configuration({"auths": {"other.io": {"auth": "eDp5"}}, "credHelpers": {"other.io": "none"}})
    assert found("ghcr.io") is None


@pytest.mark.parametrize("key", ["ghcr.io", "https://ghcr.io", "https://ghcr.io/v2/", "https://ghcr.io/v1/"])
def test_as_login_writes_it(key):
    docker_configuration(key, "gardener", "wild:rose")
    assert found("ghcr.io") == ("gardener", "wild:rose")
    assert found("ghcr.io.example.com") is None and found("io") is None


def test_docker_hub_has_a_name_of_its_own():
    docker_configuration("https://index.docker.io/v1/", "gardener", "rose")
    assert found("registry-1.docker.io") == ("gardener", "rose") and found("ghcr.io") is None


def test_names_in_the_open():
    write_configuration({"auths": {"ghcr.io": {"username": "gardener", "password": "rose"}}})
    assert found("ghcr.io") == ("gardener", "rose")


@pytest.mark.parametrize("entry", [{"credsStore": "box"}, {"credHelpers": {"ghcr.io": "box"}, "credsStore": "absent"}])
def test_a_helper_is_asked(docker, entry):
    helper(docker, "box", 'read host; [ "$1 $host" = "get ghcr.io" ] && echo \'{"Username": "g", "Secret": "rose"}\'')
    write_configuration({"auths": {"ghcr.io": {}}, **entry})
    assert found("ghcr.io") == ("g", "rose")


def test_a_helper_that_knows_nobody(docker):
    helper(docker, "box", "echo credentials not found in native keychain; exit 1")
    write_configuration({"credsStore": "box"})
    assert found("ghcr.io") is None


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo wild-rose-7 >&2; echo wild-rose-7; exit 3", "failed (exit code 3)"),
        ("echo wild-rose-7", "did not answer with a user and a secret in JSON"),
        ("echo '[\"wild-rose-7\"]'", "did not answer with a user and a secret in JSON"),
        ('echo \'{"Username": "wild-rose-7"}\'', "did not answer with a user and a secret in JSON"),
        ('echo \'{"Username": 1, "Secret": "wild-rose-7"}\'', "did not answer with a user and a secret in JSON"),
        ('echo \'{"Username": "<token>", "Secret": "wild-rose-7"}\'', "an identity token for ghcr.io"),
    ],
)
def test_helpers_that_fail(docker, script, says, exits_bundle, capfd):
    helper(docker, "box", script)
    write_configuration({"credsStore": "box"})
    with pytest.raises(RegistryError) as caught:
        find_credentials("ghcr.io")
    out, err = capfd.readouterr()
    assert says in str(caught.value) and "wild-rose-7" not in str(caught.value) + out + err


def test_a_helper_that_hangs(docker, monkeypatch):
    from da3.runtime.registry import credentials

    monkeypatch.setattr(credentials, "_HELPER_S", 0.2)
    helper(docker, "box", "exec sleep 5")
    write_configuration({"credsStore": "box"})
    with pytest.raises(RegistryError, match="did not answer in"):
        find_credentials("ghcr.io")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is no JSON object"),
        ('{"auths": {"ghcr.io": {"auth": "wild-rose-7!"}}}', "is not the base64 of user:password"),
        ('{"auths": {"ghcr.io": {"auth": ["wild-rose-7"]}}}', "is not the base64 of user:password"),
        ('{"auths": {"ghcr.io": {"auth": "d2lsZC1yb3NlLTc="}}}', "is not the base64 of user:password"),
        ('{"credsStore": "../../bin/sh"}', "is no name of a credential helper"),
        ('{"credsStore": ["a"]}', "is no name of a credential helper"),
        ('{"credsStore": "not-installed-here"}', "cannot run docker-credential-not-installed-here"),
    ],
)
def test_configurations_that_are_damaged(content, says):
    write_configuration(content)
    with pytest.raises(RegistryError) as caught:
        find_credentials("ghcr.io")
    assert says in str(caught.value) and "wild-rose" not in str(caught.value)
    assert base64.b64encode(b"wild-rose-7").decode() not in str(caught.value)


@pytest.mark.parametrize("content", ['{"auths": 1, "credHelpers": []}', '{"auths": {"ghcr.io": 1}}', "{}"])
def test_configurations_that_say_nothing(content):
    write_configuration(content)
    assert found("ghcr.io") is None
