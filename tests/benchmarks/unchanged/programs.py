"""A checkout whose programs are a few lines: they say, write and remember just enough."""

import sys
from pathlib import Path

from benchmarks.unchanged.checkouts import Checkout

CHAT = """
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
home = Path(os.environ["DSV4_HOME"]) / "sessions"


def keep(text):
    home.mkdir(parents=True, exist_ok=True)
    with (home / "20260101-120000-000-abcdef.jsonl").open("a") as file:
        print(json.dumps({"type": "question", "at": str(os.getpid()), "text": text}), file=file)


def answer(text):
    return f"You said {text}."


if "-p" in words:
    text = words[words.index("-p") + 1]
    if "--resume" in words:
        keep(text)
    print(json.dumps({"type": "done", "text": answer(text), "timing": os.getpid()}))
elif "--plain" in words:
    while (line := input("> ")) != "/quit":
        if line.startswith("/export"):
            Path(line.split()[1]).write_text("exported")
        elif not line.startswith("/"):
            keep(line)
            print(answer(line), f"{os.getpid()} tokens/s")
else:
    print("usage:", words)
"""
CONVERT = """
import json, sys
from pathlib import Path

words = sys.argv[1:]
if "--help" in words:
    print("usage:", words)
elif words[0].startswith("/absent") or words[1].startswith("/absent"):
    sys.exit("error: it is not there")
elif words[0] == "calibrate":
    Path(words[words.index("-o") + 1]).write_bytes(b"importance")
elif words[0] not in ("verify", "inspect") and "--dry-run" not in words:
    out = Path(words[1])
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")
    (out / "conversion.json").write_text(json.dumps({"format": 1, "source": words[0]}, indent=1))
"""
TRAIN = """
import sys
from pathlib import Path

if "--help" not in sys.argv:
    Path(sys.argv[1]).mkdir()
    (Path(sys.argv[1]) / "model.safetensors").write_bytes(b"trained")
"""
FILES = {
    "cli/__main__.py": CHAT,
    "cli/manual.py": "def page():\n    return 'the manual'\n",
    "convert/__main__.py": CONVERT,
    "dsv4_mlx/training/nano.py": TRAIN,
    "dsv4_mlx/mlx_lm.py": "print('=====\\nHello\\n=====\\nfast')\n",
}


# Without an environment an interpreter starts three times as fast, and these need none.
PYTHON = Path(sys.executable).resolve()


def checkout(folder: Path) -> Checkout:
    """A checkout with these programs in `folder`."""
    for name, text in FILES.items():
        path = folder / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    (folder / "scratch").mkdir()
    return Checkout(folder / "code", PYTHON, folder / "scratch")


def plant(changed: Checkout, file: str, old: str, new: str) -> None:
    """Change one place of a program."""
    path = changed.folder / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
