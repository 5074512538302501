"""Agents from npm, each in a folder of its own outside the checkout, kept between runs."""

import json
import os
import subprocess
from pathlib import Path

from tests.agents.known import Agent

FOLDER_VARIABLE = "DSV4_AGENTS"
INSTALL_S = 1800


def cache_folder() -> Path:
    """Where agents are installed: $DSV4_AGENTS, or a folder among this person's caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(caches) / "dsv4-agents"


def installed(agent: Agent, cache: Path) -> Path:
    """The folder of programs of `agent`, which npm installs first where its version is not there.
    RuntimeError where that fails."""
    folder = cache / agent.config
    if _version(folder, agent) != agent.version:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"==> npm installs {agent.package} {agent.version} into {folder}", flush=True)
        wanted = f"{agent.package}@{agent.version}"
        npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
        ran = subprocess.run([*npm, "--prefix", str(folder), wanted], timeout=INSTALL_S)
        if ran.returncode or _version(folder, agent) != agent.version:
            raise RuntimeError(f"npm could not install {wanted}; look above.")
    return folder / "node_modules" / ".bin"


def _version(folder: Path, agent: Agent) -> str:
    """The version that lies in `folder`; "" for none."""
    try:
        told = (folder / "node_modules" / agent.package / "package.json").read_text("utf-8")
    except OSError:
        return ""
    return str(json.loads(told).get("version", ""))
