"""Stages of a long run, each run once: a run that was stopped goes on with the first that is not done."""

from collections.abc import Callable
from pathlib import Path

from crosscoder_utils.io.files import read_json, read_text, write_json, write_text


class Stages:
    """Runs every stage once, and keeps on disk which stages are done and how long they took.

    Attributes:
        seconds: Name of a stage that is done -> how long it took.
    """

    def __init__(self, work: Path, recipe: str) -> None:
        """Begin or continue in the folder `work`.

        Args:
            work: Folder for what is known of the stages.
            recipe: All settings, as text: what the stages' results depend on.

        Raises:
            ValueError: If the folder belongs to a run with another recipe.
        """
        work.mkdir(parents=True, exist_ok=True)
        self.file = work / "stages.json"
        recipe_file = work / "recipe.json"
        if recipe_file.exists() and read_text(recipe_file) != recipe:
            raise ValueError(f"{recipe_file} is the recipe of another run; use its settings, another --out, or delete {work}")
        write_text(recipe_file, recipe)
        self.seconds: dict[str, float] = read_json(self.file) if self.file.exists() else {}

    def run(self, name: str, stage: Callable[[], float]) -> None:
        """Run `stage`, which returns its seconds, unless it is done; it has to write its results whole or not at all."""
        if name in self.seconds:
            print(f"{name}: already done, in {self.seconds[name]:.0f} s", flush=True)  # into a log file at once
            return
        self.seconds[name] = round(stage(), 1)
        write_json(self.file, self.seconds)
