"""``python -m crosscoder_utils.organism``, the former name of ``python -m crosscoder_utils.training``."""

from crosscoder_utils.training.__main__ import command

if __name__ == "__main__":
    command()
