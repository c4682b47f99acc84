"""Many random inputs for one function: each gives a result, or is refused in one line that names the value."""

import os
import warnings

from hypothesis import HealthCheck, given, settings

EXAMPLES = int(os.environ.get("CROSSCODER_FUZZ", 60))
REFUSALS = (ValueError, TypeError, IndexError, FileNotFoundError)


def fuzz(**strategies):
    """A test that tries many examples; in the short profile, always the same ones."""
    quiet = list(HealthCheck)
    options = settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=quiet, derandomize=EXAMPLES < 1000, database=None
    )
    return lambda test: options(given(**strategies)(test))


def result_or_one_line(call, *arguments, **options):
    """The result, or None if the call was refused in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments, **options)
    except REFUSALS as error:
        message = str(error)
        assert "\n" not in message, message
        assert 10 < len(message) <= 900, message
        assert type(error) in REFUSALS, repr(error)  # no KeyError in disguise, no error of pydantic or Arrow
        own = ("crosscoder_utils", "test_fuzz")
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        where = last.tb_frame.f_code.co_filename
        assert any(name in where for name in own) or (isinstance(error, TypeError) and "argument" in message), (where, message)
        return None
