"""`dsv4-chat` with a scripted model, as a program: scripted_chat.py REPLIES [arguments].

REPLIES is a JSON list of texts; one that ends in an ellipsis goes on for ever.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cli.app import main
from tests.cli.scripted import opening


def open_model(folder, options):
    engine, tokenizer = opening(*json.loads(sys.argv[1]))(folder, options)
    next_token = engine.model.next_token

    def unhurried(history):
        time.sleep(0.002)  # as a person could read it, so that Ctrl-C comes in the middle
        return next_token(history)

    engine.model.next_token = unhurried
    return engine, tokenizer


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], open_model=open_model))
