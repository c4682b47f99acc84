"""Interventions from the column `settings` of a sweep's table."""

import ast
import json
import re
from typing import Any

import pandas as pd

from crosscoder_utils.analysis.screen import ACTIONS
from crosscoder_utils.interventions import Intervention
from crosscoder_utils.io.checked_tables import checked_table
from crosscoder_utils.io.error_messages import in_one_line, shown
from crosscoder_utils.methods import method_from
from crosscoder_utils.prompts import TokenScope, from_marker, from_position


def intervention_from(settings: dict[str, Any]) -> Intervention | None:
    """The intervention that `Intervention.settings` describe, with its method in `METHODS`; None for an untouched row.

    Raises:
        ValueError: If the kind of intervention, the method or the token scope is unknown, or a parameter is out of range.
    """
    kind = settings.get("intervention")
    if kind == "none":
        return None
    if kind not in ACTIONS:
        raise ValueError(f"intervention {shown(kind)} is unknown; known are none, {', '.join(ACTIONS)}")
    value = {"value": settings["value"]} if "value" in settings else {}
    own = {"feature": settings.get("feature"), "method": method_from(settings)} | value
    return ACTIONS[kind](**own, tokens=_scope(settings.get("tokens", "all")))


def interventions_of(table: pd.DataFrame) -> dict[str, Intervention | None]:
    """The different interventions of a sweep's table by their `settings`, in the order of the table.

    Raises:
        ValueError: If the table lacks the column, or holds something else in it.
    """
    found: dict[str, Intervention | None] = {}
    for text in checked_table("table", table, ["settings"])["settings"].unique():
        try:
            found[text] = intervention_from(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            reason = in_one_line(error, 200)
            raise ValueError(
                f"settings {shown(text)} of the table name no intervention ({reason}); give a sweep's table"
            ) from None
    return found


def _scope(said: str) -> str | TokenScope:
    """The token scope that `str` of it describes."""
    if position := re.fullmatch(r"from position (-?\d+)", said):
        return from_position(int(position[1]))
    if marker := re.fullmatch(r"from (['\"].*['\"]) ([+-]\d+)", said):
        return from_marker(ast.literal_eval(marker[1]), int(marker[2]))
    return said
