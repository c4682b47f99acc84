"""How an intervention changes the residual stream: `METHODS` lists the ways.

Two families of methods. A `DecoderMethod` adds multiples of fixed directions; how many, the clean run's activation says. A
`SearchMethod` looks for what to add token by token, trying it on the intervened run; most of them move the feature's
pre-activation to a value, as decoder methods do with scale="auto" (`solving`). To add a method, subclass one of the two
and add the class to `METHODS`: sweeps, tables, figures and widgets take their methods from there.
"""

from dataclasses import fields

from crosscoder_utils.io.error_messages import shown
from crosscoder_utils.methods.base import DecoderMethod, Method, SearchMethod
from crosscoder_utils.methods.layers import ManyLayers, SingleLayer
from crosscoder_utils.methods.perturbation import Perturbation
from crosscoder_utils.methods.solvers import NaturalPerturbation, Patch, SteepestDescent

__all__ = [
    "METHODS", "DecoderMethod", "ManyLayers", "Method", "NaturalPerturbation", "Patch", "Perturbation", "SearchMethod",
    "SingleLayer", "SteepestDescent", "method_from",
]  # fmt: skip

METHODS: dict[str, type[Method]] = {
    m.name: m for m in (SingleLayer, ManyLayers, Perturbation, NaturalPerturbation, Patch, SteepestDescent)
}


def method_from(settings: dict) -> Method:
    """The method that `Intervention.settings` describe.

    Raises:
        ValueError: If there is no method of that name.
    """
    if settings.get("method") not in METHODS:
        raise ValueError(f"method {shown(settings.get('method'))} is unknown; known are {', '.join(METHODS)}")
    method = METHODS[settings["method"]]
    return method(**{field.name: settings[field.name] for field in fields(method) if field.name in settings})
