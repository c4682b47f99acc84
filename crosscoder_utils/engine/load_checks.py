"""What is checked when a setup is loaded: that its parts fit each other, and that the engine reads the model right.

For the second, one short random text in two rows of different length is read three ways: by transformers itself, without a
cache (`hooks.read`), and token after token with one (`Run`), the last two with the same edits. Whatever a model's layers do
with masks, positions or caches that the engine does not know of shows there, and the model is refused.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from crosscoder_utils.crosscoder import Crosscoder
from crosscoder_utils.engine.cached_run import Run
from crosscoder_utils.hooks import PlainModel, read
from crosscoder_utils.io.error_messages import in_one_line, shown
from crosscoder_utils.io.tokens import leading_bos, padded, token_ids
from crosscoder_utils.loading import Setup

SINK = 8
"""How many times as large as the others' a first token's residual stream has to be to count as an attention sink."""
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""What is taken for rounding, relative to the largest value; 0.001 in single precision."""
STEPS = 12
"""Tokens that are read one by one."""
SHORTER = 5
"""By how much the second row is shorter."""
LONGEST_WINDOW = 512
"""Texts longer than this are not read; a longer attention window is made short in a copy that shares the weights."""

SENTENCE = "Once upon a time there was a little dog who lived in an old house near the river. One day, it found a red ball."

_CHECKED: set[tuple[str, ...]] = set()


def check_model(model: PlainModel, context: int) -> None:
    """Raise a `ValueError` unless all three ways agree; texts have at most `context` tokens. Checks each configuration once."""
    config, weights = model.causal_lm.config, next(model.causal_lm.parameters())
    key = (type(model.causal_lm).__name__, config.to_json_string(), str(weights.dtype), str(weights.device), str(context))
    if key in _CHECKED:
        return
    where = f"model type {config.model_type!r} of transformers {version('transformers')}"
    remedy = "intervening on it would give wrong numbers; use another model, or a version of transformers in which they agree"
    limit = TOLERANCE.get(weights.dtype, 1e-3)
    try:
        windows = [size for size in _windows(config).values() if size < context]
        with torch.no_grad():
            short = _with_short_windows(model) if max(windows, default=0) > LONGEST_WINDOW else model
            found = dict(_differences(short, max(_windows(short.causal_lm.config).values(), default=0) if windows else 0))
    except Exception as error:  # whatever a model's own code raises
        raise ValueError(
            f"{where} cannot be read token by token with a cache of keys and values "
            f"({type(error).__name__}: {in_one_line(error)}); use a model whose layers all attend to the tokens before, "
            "such as Llama's or GPT-2's"
        ) from error
    worst = max(found, key=lambda name: found[name] if found[name] == found[name] else torch.inf)
    if not found[worst] <= limit:
        raise ValueError(
            f"{where}: {worst} differ by {found[worst]:.2g} of the largest value ({limit:g} is rounding); {remedy}"
        )
    _CHECKED.add(key)


def check_device(device: str | torch.device) -> torch.device:
    """The device, or a `ValueError` if there is none of that name."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        here = ", ".join(["cpu", *["cuda"] * torch.cuda.is_available(), *["mps"] * torch.backends.mps.is_available()])
        raise ValueError(f"device={shown(device)} is not available ({in_one_line(error, 80)}); here are: {here}") from error


def check_context(model: PreTrainedModel, context: int | None) -> int:
    """The context, by default 512 at most; a `ValueError` if the model has fewer positions, or other rope factors in it."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    context = context or min(positions or 512, 512)
    if positions is not None and context > positions:
        raise ValueError(f"context={context} is more than the {positions} positions of the model; give at most those")
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        original = one.get("original_max_position_embeddings") or positions
        if one.get("rope_type") in ("longrope", "dynamic") and context > original:
            raise ValueError(
                f"context={context} is more than the {original} positions up to which rope factors of type "
                f"{one['rope_type']!r} stay the same; beyond, a row's text would depend on its neighbours: give at most those"
            )
    return context


def check_fit(crosscoder: Crosscoder, model: TransformerBridge) -> None:
    """Raise a `ValueError` unless the crosscoder covers residual hook points that the model has."""
    covered, n_points = crosscoder.hook_points, model.cfg.n_layers + 1
    model_has = f"the model has {n_points} (0 after the embedding, l after block l)"
    if crosscoder.d_model != model.cfg.d_model:
        raise ValueError(
            f"the crosscoder has d_model {crosscoder.d_model}, the model {model.cfg.d_model}; load the one it was trained on"
        )
    if covered is None and crosscoder.n_points != n_points:
        raise ValueError(
            f"the crosscoder has {crosscoder.n_points} hook points, {model_has}; load the one it was trained on, or say which "
            "ones with hook_points"
        )
    if covered is not None and covered[-1] >= n_points:
        raise ValueError(f"the crosscoder covers hook points {covered}, {model_has}; load the model it was trained on")


def check_tokenizer(setup: Setup) -> None:
    """Raise a `ValueError` unless the tokenizer fits the model and the preset."""
    tokenizer, preset, name = setup.tokenizer, setup.preset, setup.preset.tokenizer or setup.preset.model
    n_tokens, rows = len(tokenizer), setup.transformers_model.get_input_embeddings().weight.shape[0]
    problems = {
        f"has {n_tokens} tokens, the model's embedding {rows} rows; name the model's own one": n_tokens > rows,
        "is not a fast one and does not say where tokens lie in a text; convert it": not tokenizer.is_fast,
        "has no end-of-text token, which ends a completion; set its eos_token": not setup.eos_token_ids,
        "has no BOS token to prepend; set prepend_bos: false, or its bos_token": (
            preset.prepend_bos and tokenizer.bos_token_id is None
        ),
    }
    for problem in (problem for problem, found in problems.items() if found):
        raise ValueError(f"tokenizer {name!r} {problem}")
    if not preset.prepend_bos and leading_bos(tokenizer, tokenizer("a").input_ids):
        warnings.warn(
            f"tokenizer {name!r} puts a BOS token before texts by itself, preset {preset.name!r} does not; if the model was "
            "trained with it, set prepend_bos: true",
            stacklevel=4,
        )


@torch.no_grad()
def check_stream(setup: Setup) -> None:
    """Warn if the residual stream of a sentence says that `center` or `prepend_bos` is set the wrong way."""
    ids = token_ids(setup.tokenizer, SENTENCE)[: setup.preset.context - 1]
    batch = padded([ids], setup.tokenizer, setup.preset.prepend_bos, setup.device)
    stream = read(setup.model, batch.tokens, hook_points=setup.hook_points).residuals[batch.content]
    _check_center(setup, stream)
    _check_sink(setup, stream)


def _check_sink(setup: Setup, stream: Float[Tensor, "token point d_model"]) -> None:
    """Warn if the first token is an attention sink: it would count in every mean, and be edited as no other is.

    Of pretrained models many have one, whatever the token; a BOS token there is left out of everything.
    """
    norms = stream.norm(dim=-1)
    times = norms[0] / norms[1:].median(dim=0).values
    if times.max() > SINK:
        point = int(times.argmax())
        warnings.warn(
            f"the first token's residual stream is {times[point]:.0f} times as large as the others' at hook point "
            f"{setup.hook_points[point]}: it is an attention sink, and would be edited and recorded like any token; set "
            "prepend_bos: true, so that a BOS token, which is not, stands there",
            stacklevel=6,
        )


def _check_center(setup: Setup, stream: Float[Tensor, "token point d_model"]) -> None:
    """Warn if the crosscoder reconstructs the residual stream far better with the other setting of `center`."""
    fvu = {}
    for center in (False, True):
        crosscoder = replace(setup.crosscoder, center=center)
        target = stream - stream.mean(-1, keepdim=True) if center else stream
        error = (target - crosscoder.decode(crosscoder.encode(stream))).square().sum()
        fvu[center] = float(error / (target - target.mean(0)).square().sum())
    used, other = (fvu[setup.crosscoder.center], fvu[not setup.crosscoder.center])
    if other < 0.5 and other < 0.3 * used:
        warnings.warn(
            f"with center={setup.crosscoder.center} the crosscoder leaves {used:.2f} of the stream's variance unexplained "
            f"on a sentence, with center={not setup.crosscoder.center} only {other:.2f}; set center to that",
            stacklevel=6,
        )


def _differences(model: PlainModel, window: int) -> Iterator[tuple[str, float]]:
    """Largest difference between two ways of reading, relative to the largest value, by name."""
    n, points = max(window, SHORTER + 2) + 2 * STEPS, len(model.blocks) + 1
    tokens = _random_tokens(model, n)
    lengths = (n, n - SHORTER)
    own = [
        model.causal_lm(tokens[row : row + 1, :length], use_cache=False, output_hidden_states=True)
        for row, length in enumerate(lengths)
    ]
    clean = read(model, tokens, logits=True)
    for row, length in enumerate(lengths):
        yield f"logits without a cache (row {row})", _apart(clean.logits[row, :length], own[row].logits[0])
        streams = own[row].hidden_states
        if streams is not None and len(streams) == points:  # the last one has gone through the final norm
            hidden = torch.stack(streams[:-1], dim=-2)[0].to(clean.residuals.dtype)
            yield f"residual streams without a cache (row {row})", _apart(clean.residuals[row, :length, :-1], hidden)

    size = 0.3 * clean.residuals.std(dim=-1, keepdim=True)
    deltas = size * torch.randn(clean.residuals.shape, generator=torch.Generator().manual_seed(1)).to(size)
    edited = read(model, tokens, deltas, logits=True)
    without = min(_effects(model, tokens[:1, :SHORTER], deltas[:1, :SHORTER], points))
    yield "logits with and without an edit do not differ at some hook point, and would have to; they", float(without == 0)

    start = torch.tensor([0, SHORTER], device=tokens.device)
    left, left_deltas = (torch.stack([x[0], x[1].roll(SHORTER, 0)]) for x in (tokens, deltas))
    run, first = Run(model, tuple(range(points)), start, n), n - STEPS
    passes = [run.read(left[:, :first], 0, lambda p: left_deltas[:, :first, p], logits=True)]
    for at in range(first, n):
        delta = left_deltas[:, at : at + 1]
        passes.append(run.read(left[:, at : at + 1], at, lambda p, delta=delta: delta[:, :, p], logits=True))
    last = run.window(torch.arange(2, device=start.device), torch.full_like(start, n - 1))
    window_pass = run.read_window(last, left[:, -1:], lambda p: left_deltas[:, -1:, p], logits=True)
    cached, residuals = torch.cat([p.logits for p in passes], 1), torch.cat([p.residuals for p in passes], 1)
    yield "logits of a token that is read twice", _apart(window_pass.logits, passes[-1].logits)
    for row, length in enumerate(lengths):
        yield f"logits with a cache (row {row})", _apart(cached[row, n - length :], edited.logits[row, :length])
        yield f"residual streams with a cache (row {row})", _apart(residuals[row, n - length :], edited.residuals[row, :length])


def _effects(model: PlainModel, tokens: Tensor, deltas: Tensor, points: int) -> Iterator[float]:
    """How far an edit at each hook point alone moves the logits."""
    clean = read(model, tokens, logits=True).logits
    for point in range(points):
        edit = read(model, tokens, lambda p, point=point: deltas[:, :, p] if p == point else None, logits=True)
        yield _apart(edit.logits, clean)


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _random_tokens(model: PlainModel, n: int) -> Tensor:
    """Two rows of tokens, none of which has a meaning for the configuration, such as an image's place."""
    config = model.causal_lm.config.get_text_config()
    settings = model.causal_lm.config.to_dict() | config.to_dict()
    named = [value for name, value in settings.items() if name.endswith(("_token_id", "_token_index"))]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    usable = torch.tensor([token for token in range(min(config.vocab_size, 1000)) if token not in special])
    chosen = torch.randint(len(usable), (2, n), generator=torch.Generator().manual_seed(0))
    return usable[chosen].to(next(model.causal_lm.parameters()).device)


def _windows(config) -> dict[str, int]:
    """How far layers of some type look back, by the setting's name."""
    settings = config.get_text_config().to_dict()
    names = [name for name in settings if name.endswith(("sliding_window", "window_size", "attention_chunk_size"))]
    return {name: settings[name] for name in names if isinstance(settings[name], int) and not isinstance(settings[name], bool)}


def _with_short_windows(model: PlainModel) -> PlainModel:
    """A copy that shares the weights and looks back 8 tokens where the model looks back hundreds."""
    causal_lm = copy.deepcopy(model.causal_lm, {id(t): t for t in [*model.causal_lm.parameters(), *model.causal_lm.buffers()]})
    long = _windows(causal_lm.config)
    for module in causal_lm.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, size in long.items():
                if getattr(holder, name, None) == size:
                    setattr(holder, name, 8)
    copied = PlainModel(causal_lm, model.parts)
    tokens = _random_tokens(model, 4 * 8)
    if _apart(read(copied, tokens, logits=True).logits, read(model, tokens, logits=True).logits) == 0:
        raise ValueError(
            f"looks back {max(long.values())} tokens, which a short text cannot check; set context to less than that"
        )
    return copied
