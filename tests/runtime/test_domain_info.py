"""`domains info`: all that is known of a domain, where it comes from included, and nothing that harms a terminal."""

import json

import pytest

from da3.runtime.app.commands import main
from da3.runtime.app.domain_info import domain_info, render_info
from da3.runtime.bundle import Bundle, add_pack, domain_files, read_domain, write_files, write_pack
from da3.runtime.errors import DomainError

TOLD = {
    "da3": "0.1.0",
    "begun": "2026-11-20T08:00:00Z",
    "engine": "pytorch",
    "command": "da3 train --domain flowers\x1b[2J",
    "photos": {"sha256": "cd" * 32, "train": 10, "val": 4},
    "from": {"domain": "plants"},
    "machine": "a board, 4 cores",
    "versions": {"numpy": "1.13.3"},
    "settings": {"seed": 7, "epochs": 15, "flip": False},
}


@pytest.fixture
def told(exits_bundle, tmp_path):
    """A bundle with exits, one domain of which says where it comes from; its name."""
    with Bundle(exits_bundle) as bundle:
        name = bundle.domains[0]
        domain = read_domain(bundle, name)
    write_files(tmp_path / "pack", domain_files(domain._replace(provenance=TOLD)))
    add_pack(exits_bundle, tmp_path / "pack", replace=True)
    return exits_bundle, name


def test_where_a_domain_comes_from_goes_with_it(told, tmp_path):
    bundle, name = told
    assert domain_info(bundle, name)["provenance"] == TOLD
    pack = write_pack(bundle, name, tmp_path)
    assert domain_info("nowhere", pack)["provenance"] == TOLD
    assert domain_info("nowhere", pack)["classes"] == domain_info(bundle, name)["classes"]


def test_for_people(told, capsys):
    bundle, name = told
    assert main(["domains", "info", name, "--bundle", str(bundle)]) == 0
    said = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in said.splitlines())
    assert rows["trained"].strip() == "2026-11-20T08:00:00Z by da3 0.1.0 with pytorch"
    assert "10 to train on, 4 to validate on; sha256 cdcd" in rows["photos"]
    assert "seed 7, epochs 15, flip false" in rows["settings"] and "plants" in rows["started from"]
    assert "\x1b" not in said and "\\x1b[2J" in rows["command"]
    with Bundle(bundle) as opened:
        domain, arch = read_domain(opened, name), opened.manifest.arch
    assert all(name in said for name in domain.classes) and arch in rows["backbone"]
    exits = [line for line in said.splitlines() if line.startswith("exit ")]
    assert len(exits) == len(domain.exits) > 0 and all("behind block" in line for line in exits)


def test_for_programs(told, capsys):
    bundle, name = told
    assert main(["domains", "info", name, "--json", "--bundle", str(bundle)]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["name"] == name and info["provenance"] == TOLD
    with Bundle(bundle) as opened:
        places = [step for step in opened.manifest.plan if step.block is not None or step.exit]
    behind = [places[i - 1].block for i, step in enumerate(places) if step.exit and places[i - 1].block is not None]
    assert {exit["behind_block"] for exit in info["exits"]} >= set(behind) and behind


def test_domains_of_before_and_strange_ones(exits_bundle, built, tmp_path):
    with Bundle(exits_bundle) as bundle:
        name = bundle.domains[0]
        domain = read_domain(bundle, name)
    assert domain.provenance == {} and "not written down" in render_info(domain_info(exits_bundle, name))
    strange = {"photos": "some", "settings": 3, "from": [1], "versions": None, "begun": 5, "command": ["a"]}
    write_files(tmp_path / "pack", domain_files(domain._replace(provenance=strange)))
    add_pack(exits_bundle, tmp_path / "pack", replace=True)
    assert "trained" in render_info(domain_info(exits_bundle, name))
    with Bundle(built[0]) as bundle:  # of format 1
        assert "classes" in render_info(domain_info(built[0], bundle.domains[0]))
    with pytest.raises(DomainError, match="unknown domain 'flwers'"):
        domain_info(built[0], "flwers")
