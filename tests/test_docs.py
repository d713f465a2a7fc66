"""The documents point at things that exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from da3.runtime.app.commands import COMMANDS, parser
from da3.toolchain.cli.commands import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("toolchain/weights/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = document.read_text()
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (document.parent / target.split("#")[0]).exists(), target


def options_of_runtime(line):
    """The options of a command, or of a command's action, that ``da3`` hands on to the runtime."""
    words = line.split()
    for command in COMMANDS:
        if words[:1] == [command.name]:
            made = parser(command, f"da3 {command.name}")
            actions = [a.choices for a in made._actions if isinstance(a.choices, dict)]
            if actions and words[1:]:
                assert words[1] in actions[0] or "|" in words[1], line
                made = actions[0].get(words[1], made)
            return set(made._option_string_actions)
    return set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(document):
    """Every ``da3 ...`` line in an indented block or in backquotes names a real command with real options."""
    found = re.findall(r"(?:^    |`)da3 ([^`\n#]*)", document.read_text(), re.M)
    for line in found:
        command, words = get_command(app), line.split()
        while words and hasattr(command, "commands"):
            word = words.pop(0)
            if word.startswith("--"):
                assert word in {name for p in command.params for name in p.opts}, f"{document.name}: da3 {line}"
                break
            if not re.fullmatch(r"[a-z-]+", word) or "|" in word:
                break
            assert word in command.commands, f"{document.name}: da3 {line}"
            command = command.commands[word]
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | options_of_runtime(line)
        for word in words:
            if word.startswith("--") and not hasattr(command, "commands"):
                assert word in options, f"{document.name}: da3 {line}"


def test_readme_shows_the_three_commands():
    text = (ROOT / "README.md").read_text()
    for command in ("da3 train --domain flowers", "da3 export --domain flowers", "da3 run-engine --domain flowers"):
        assert command in text
