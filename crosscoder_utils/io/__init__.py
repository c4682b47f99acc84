"""Reading and writing files: crosscoders (this package's format and other libraries'), their sources, examples, results."""

from crosscoder_utils.io.crosscoder_files import load_crosscoder, save_crosscoder
from crosscoder_utils.io.datasets import read_examples, read_rows
from crosscoder_utils.io.error_messages import explained, in_one_line
from crosscoder_utils.io.files import (
    check_manifest,
    read_json,
    read_safetensors,
    read_yaml,
    whole_file,
    whole_files,
    write_json,
    write_manifest,
    write_text,
)
from crosscoder_utils.io.sources import Source, fetch_folder, parse_source

__all__ = [
    "Source",
    "check_manifest",
    "explained",
    "fetch_folder",
    "in_one_line",
    "load_crosscoder",
    "parse_source",
    "read_examples",
    "read_json",
    "read_rows",
    "read_safetensors",
    "read_yaml",
    "save_crosscoder",
    "whole_file",
    "whole_files",
    "write_json",
    "write_manifest",
    "write_text",
]
