"""How `generate` is fast."""

from crosscoder_utils.engine.batch import Batch, Limits, Request
from crosscoder_utils.engine.decoding import Decoding, family
from crosscoder_utils.engine.editing import Attempts
from crosscoder_utils.engine.memory_budget import plan_batches
from crosscoder_utils.engine.recording import records_of
from crosscoder_utils.engine.sampling import Sampler

__all__ = ["Attempts", "Batch", "Decoding", "Limits", "Request", "Sampler", "family", "plan_batches", "records_of"]
