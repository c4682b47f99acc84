"""What checks types and shapes of annotations while tests run; an int is taken where a float is asked for."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
