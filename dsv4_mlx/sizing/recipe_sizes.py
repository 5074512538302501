"""What the weights of a release take in a GPU's memory, by the recipe of its conversion.

Written by `make pages`, from the stored forms of every parameter.
"""

RECIPES = {
    "V4-Flash": {
        "native": 159_788_029_512,
        "q8": 159_291_594_312,
        "q6": 157_887_551_048,
        "q4": 156_797_556_296,
        "q3": 131_312_440_904,
        "q2": 95_878_960_712,
    },
    "V4-Pro": {
        "native": 865_418_112_120,
        "q8": 864_549_350_520,
        "q6": 859_354_442_872,
        "q4": 855_100_238_968,
        "q3": 711_907_880_056,
        "q2": 515_312_462_968,
    },
}
"""Bytes; the most exact recipe comes first."""
