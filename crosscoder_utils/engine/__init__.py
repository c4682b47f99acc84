"""How `generate` is fast."""

from crosscoder_utils.engine.batch import Batch, Limits, Request
from crosscoder_utils.engine.decoding import decode, family
from crosscoder_utils.engine.planning import plan_batches
from crosscoder_utils.engine.recording import records_of
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.engine.searching import Attempts, Searching

__all__ = ["Attempts", "Batch", "Limits", "Request", "Sampler", "Searching", "decode", "family", "plan_batches", "records_of"]
