"""A short training of a crosscoder in two shards, run by test_distributed.py in one process or more.

python train_in_shards.py OUT [STEP TO DIE AT]
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from accelerate import Accelerator

from crosscoder_utils import load, save_crosscoder
from crosscoder_utils.training.activations import ActivationWindows
from crosscoder_utils.training.crosscoder_training import train_crosscoder
from crosscoder_utils.training.recipe import CrosscoderRecipe

STEPS = 20

out, die_at = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
out.mkdir(parents=True, exist_ok=True)
setup = load()
accelerator, losses = Accelerator(cpu=True), []
accelerator.log = lambda values, step: losses.append(values["crosscoder loss"])
recipe = CrosscoderRecipe(
    n_features=64, tokens=4000, window_steps=8, shards=2, steps=STEPS, batch_size=256, sparsity=0.1, activation_dtype="bfloat16"
)
examples = setup.examples(100, deployment=True, split="train")


def texts(window):
    return itertools.cycle(examples[window:] + examples[:window])


class Mortal(ActivationWindows):
    def rows_at(self, step):
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rows_at(step)


windows = Mortal(setup.model, setup.tokenizer, texts, recipe, seed=3, prepend_bos=True, hook_points=(1, 2, 4))
crosscoder, _ = train_crosscoder(recipe, windows, 3, out / "checkpoint.pt", accelerator, save_every=5, log_every=1)
if accelerator.is_main_process:
    save_crosscoder(crosscoder, out)
    (out / "losses.json").write_text(json.dumps(losses))
