"""`python run.py MODULE FUNCTION ARGUMENTS`: one probe's facts as JSON, the last line on stdout.

The working folder is the checkout that is asked; ARGUMENTS are a JSON object.
"""

import importlib
import json
import os
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def main(module: str, function: str, arguments: str) -> None:
    """Run one function of this package, which has its own name here: `probes`."""
    # The folder of this script would hide modules of the checkout.
    sys.path[0] = str(_HERE.parent)
    probe = importlib.import_module(f"{_HERE.name}.{module}")
    sys.path[0] = os.getcwd()
    facts = getattr(probe, function)(**json.loads(arguments))
    print(f"\n{json.dumps(facts)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
