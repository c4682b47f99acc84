"""SAEs of EleutherAI's sparsify (github.com/EleutherAI/sparsify)."""

from pathlib import Path

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_safetensors
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.weights import Weights, check_k, one_hook_point, refuse_factors, topk_threshold

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_SKIP = "a linear path around the features, which the crosscoder here does not have"


class SparsifyReader(Reader):
    """`cfg.json` and `sae.safetensors`; the hook point is the name of the folder, such as `layers.5`."""

    name = "sparsify"
    layout = f"{CONFIG} and {WEIGHTS}"
    marks = (WEIGHTS,)
    others = (CONFIG,)

    def read(self, folder: Path, options: Options) -> Crosscoder:
        refuse_factors(options, "sparsify's weights act on raw activations")
        config = open_json(folder / CONFIG, self.holds)
        config.expect("transcode", (False,), "a transcoder reads one place and writes another; only SAEs are read")
        config.expect("skip_connection", (False,), _SKIP)
        config.expect("activation", ("topk",), "only 'topk' is read; groups of features have no thresholds or TopK")
        config.expect(
            "signed", (False,), "it keeps the largest activations of either sign, and the crosscoder here positive ones"
        )
        name = folder.resolve().name
        hook_points = one_hook_point(options, name if "layers." in name or "h." in name else None, folder)
        tensors = open_safetensors(folder / WEIGHTS, self.holds)
        W_enc = tensors.take("encoder.weight", shape=(None, config.count("d_in"))).T
        d_model, n_features = W_enc.shape
        weights = Weights.of_one_point(
            W_enc,
            tensors.take("encoder.bias", shape=(n_features,)),
            tensors.take("W_dec", shape=(n_features, d_model)),
            tensors.take("b_dec", shape=(d_model,)),
        )
        tensors.refuse_rest({"W_skip": _SKIP})
        if config.count("num_latents", 0):
            config.expect_sizes(num_latents=("features", n_features))
        k = check_k(config.count("k"), n_features, folder / CONFIG)
        config.ignore("expansion_factor", "normalize_decoder", "multi_topk")
        config.refuse_rest()
        weights = weights.with_input_bias(weights.b_dec)
        return weights.crosscoder(hook_points, topk_threshold(n_features, signed=False), k)
