"""The embedded model in two processes of this machine: what the connection of two machines costs
where no cable lies between them."""

from benchmarks.pipeline import measured
from benchmarks.report.parts.nano_logits import FOLDER
from benchmarks.report.setting import Setting
from benchmarks.report.teller import Teller

PROMPT_TOKENS, CHUNK = 256, 64


def run(teller: Teller, setting: Setting) -> None:
    """One row `ranks`; both say the same or the part fails."""
    sizes = setting.sizes
    teller.at("nano in two processes beside nano in one")
    found = measured(
        FOLDER, setting.backend, PROMPT_TOKENS, CHUNK, sizes.greedy_tokens, sizes.rounds
    )
    teller.row("ranks", **found)
