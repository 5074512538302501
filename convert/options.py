"""The words of the command: its options and those of its subcommands."""

import argparse
import sys
from pathlib import Path
from typing import Any

from convert.drafts import DRAFTS
from convert.fit import MEMORIES, memory_of
from convert.output import emit
from convert.recipe import NATIVE, SHIPPED
from convert.verify import LEVELS
from dsv4_mlx import __version__
from dsv4_mlx.files.paths import user_path


class Parser(argparse.ArgumentParser):
    """Its help and version are output as any other, so a full disk ends in a sentence."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is sys.stdout and file is not sys.stderr:
            emit(message.rstrip("\n"))
        else:
            super()._print_message(message, file)


def parser() -> Parser:
    parser = Parser(
        prog="python -m convert",
        description="Turn the official DeepSeek-V4 files into a folder that MLX loads directly.",
        epilog="Further: `fetch REPO_ID DST`, `calibrate SRC TEXT...`, `verify DST`, "
        "`inspect PATH` and `join PART PART DST`; each has a --help.",
    )
    parser.add_argument("src", metavar="SRC", type=user_path, help="the official folder")
    parser.add_argument(
        "dst", metavar="DST", type=user_path, help="the new folder, empty or absent"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--fit",
        type=memory_of,
        choices=MEMORIES,
        help="take the most exact recipe that runs on a Mac with this memory, or else the fastest "
        "whose experts are read from the disk; expected speeds are printed",
    )
    choice.add_argument(
        "--recipe",
        metavar="NAME",
        default=NATIVE,
        help="how few bits: " + ", ".join(SHIPPED) + " or FILE.toml (default: native, no change)",
    )
    parser.add_argument(
        "--importance",
        metavar="FILE",
        type=user_path,
        help="weigh errors of quantized matrices by what `calibrate` measured",
    )
    parser.add_argument(
        "--drafts",
        choices=DRAFTS,
        default="keep",
        help="what guesses tokens ahead: keep it (DSpark as released, MTP by the recipe), drop it, "
        "or give it at most 8 bits a weight, q8; replies are the same",
    )
    parser.add_argument(
        "--layers",
        metavar="A:B",
        help="convert layers A to B, without B, alone: a part for a Mac whose disk cannot hold "
        "all; `join` makes one folder of parts",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes, disk and memory, and write nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue where an earlier run was stopped"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        help="convert N matrices at a time (default: the number of cores, at most 4); the files "
        "are the same for any N, memory grows with it",
    )
    parser.add_argument(
        "--delete-source",
        action="store_true",
        help="remove each official shard once all of it is converted and read back equal",
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    parser.add_argument("--version", action="version", version=f"dsv4-mlx {__version__}")
    return parser


def verify_parser() -> Parser:
    parser = Parser(prog="python -m convert verify", description="Check a finished conversion.")
    parser.add_argument("dst", metavar="DST", type=user_path, help="the converted folder")
    parser.add_argument("--against", metavar="SRC", type=user_path, help="the folder it came from")
    levels = "; ".join(f"{name}: {meaning}" for name, meaning in LEVELS.items())
    parser.add_argument("--level", choices=list(LEVELS), default="lossless", help=levels)
    parser.add_argument("--text", metavar="FILE", type=user_path, help="the text for behaviour")
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


def inspect_parser() -> Parser:
    parser = Parser(prog="python -m convert inspect", description="Say what a model folder holds.")
    parser.add_argument(
        "path", metavar="PATH", type=user_path, help="an official or converted folder"
    )
    parser.add_argument("--json", action="store_true", help="facts as JSON on stdout")
    return parser


def calibrate_parser() -> Parser:
    parser = Parser(
        prog="python -m convert calibrate",
        description="Measure on texts how much each input channel of the matrices carries, one "
        "layer in memory at a time, for --importance.",
    )
    parser.add_argument("src", metavar="SRC", type=user_path, help="the official folder")
    parser.add_argument(
        "texts",
        metavar="TEXT",
        type=user_path,
        nargs="+",
        help='UTF-8 texts; in *.jsonl one conversation per line, {"messages": [...]}',
    )
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        type=user_path,
        default=Path("importance.safetensors"),
        help="the file to write (default: importance.safetensors)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


def fetch_parser() -> Parser:
    parser = Parser(
        prog="python -m convert fetch",
        description="Fetch a release from the Hugging Face hub: only the files that are needed, "
        "continuing what is there, hashes checked.",
    )
    parser.add_argument("repo", metavar="REPO_ID", help="such as deepseek-ai/NAME")
    parser.add_argument("dst", metavar="DST", type=user_path, help="the folder for the files")
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


def join_parser() -> Parser:
    parser = Parser(
        prog="python -m convert join",
        description="Make one folder of parts that were converted with --layers: the folder that "
        "a conversion of all layers would have written, byte for byte.",
    )
    parser.add_argument(
        "parts", metavar="PART", type=user_path, nargs="+", help="folders that hold all layers"
    )
    parser.add_argument(
        "dst", metavar="DST", type=user_path, help="the new folder, empty or absent"
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser
