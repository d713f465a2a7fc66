"""Hashes made to fit what was damaged, so that a reader gets as far as the damage itself."""

import hashlib
import json


def entry(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def in_bundle(changed, base, root="bundle/"):
    """{name: bytes} of the changed files of a bundle, with the manifest and domain.json that fit them.

    base: all files of the bundle as they were. What is no JSON any more is left as it is.
    """
    made = dict(changed)
    for name, data in changed.items():
        folder, _, file = name[len(root) :].rpartition("/")
        described = f"{root}{folder}/domain.json" if folder.startswith("domains/") else f"{root}manifest.json"
        if name == described:
            continue
        content = _content(made.get(described, base[described]))
        if content is None:
            continue
        if folder.startswith("domains/"):
            key = {"weights.safetensors": "weights", "goldens.safetensors": "goldens"}.get(file)
            listed = content.get(key)
        else:
            listed = content["files"].get(name[len(root) :]) if isinstance(content.get("files"), dict) else None
        if isinstance(listed, dict):
            listed.update(entry(data))
            made[described] = json.dumps(content).encode()
    return made


def _content(data):
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
