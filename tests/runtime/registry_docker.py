"""Docker's configuration, as `docker login` writes it, where DOCKER_CONFIG points."""

import base64
import json
import os
from pathlib import Path


def docker_configuration(host, user, password, **more):
    write_configuration({"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}, **more})


def write_configuration(content):
    folder = Path(os.environ["DOCKER_CONFIG"])
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return folder
