"""This package's own format, written by `save_crosscoder`."""

from pathlib import Path

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.io.readers.checked_files import open_json, open_safetensors
from crosscoder_utils.io.readers.options import Options
from crosscoder_utils.io.readers.reader import Reader
from crosscoder_utils.io.readers.weights import check_k, refuse_factors

WEIGHTS, CONFIG, FORMAT = "crosscoder.safetensors", "config.json", "crosscoder_utils"
TENSORS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")


class OwnReader(Reader):
    """`config.json` and `crosscoder.safetensors`."""

    name = "crosscoder"
    layout = f"{CONFIG} and {WEIGHTS}"
    marks = (WEIGHTS,)
    others = (CONFIG,)

    def stated_hook_points(self, folder: Path) -> list[int] | None:
        return open_json(folder / CONFIG, self.holds).counts("hook_points")

    def read(self, folder: Path, options: Options) -> Crosscoder:
        refuse_factors(options, "this package's files hold weights that act on raw activations")
        config = open_json(folder / CONFIG, self.holds)
        if config.any("format") != FORMAT:
            raise ValueError(
                f"{folder / CONFIG} says format {config.any('format')!r}, not {FORMAT!r}; write it with save_crosscoder"
            )
        config.expect("activation", ("jumprelu",), "only 'jumprelu' was ever written; write it again with save_crosscoder")
        tensors = open_safetensors(folder / WEIGHTS, self.holds)
        W_enc = tensors.take("W_enc", shape=(None, None, None))
        points, d_model, features = W_enc.shape
        config.expect_sizes(n_points=("hook points", points), d_model=("d_model", d_model), n_features=("features", features))
        k, hook_points, center = config.count("k"), config.counts("hook_points"), config.flag("center")
        crosscoder = Crosscoder(
            W_enc=W_enc,
            b_enc=tensors.take("b_enc", shape=(features,)),
            threshold=tensors.take("threshold", shape=(features,)),
            W_dec=tensors.take("W_dec", shape=(features, points, d_model)),
            b_dec=tensors.take("b_dec", shape=(points, d_model)),
            center=center,
            hook_points=None if hook_points is None else tuple(hook_points),
            k=None if k is None else check_k(k, features, folder / CONFIG),
        )
        config.refuse_rest()
        tensors.refuse_rest()
        return crosscoder
