"""The post itself, in one command: `replicate` goes from the published model to a book with the post's numbers beside ours.

In reading order: `settings` (what it is made by), `checks` (before anything), `run` (the stages), `fetch`, `estimate` (what
remains), `notebooks`, `post` and `comparison`, `book`.
"""

from crosscoder_utils.training.replication.run import add_arguments, recipe_from, replicate
from crosscoder_utils.training.replication.settings import Replication

__all__ = ["Replication", "add_arguments", "recipe_from", "replicate"]
