"""What single parts of the architecture are worth, measured on a model small enough for one core.

    python -m benchmarks.ablations STATE --arm base --seed 0
    python -m benchmarks.ablations STATE --all

Every arm is trained on the same batches for the same number of steps, with the same number of
parameters, and differs from `base` in one thing. STATE is a folder for what a killed run goes on
from; a finished run is one row of results/ablations.csv.
"""
