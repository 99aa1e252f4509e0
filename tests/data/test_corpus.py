"""Plain text becomes full rows; too little of it, or none, is one line."""

from __future__ import annotations

import pytest

from prumux.data.corpus import is_corpus, load_corpus
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError

LINES = ["the plot was good", "", "the cast was bad", "a film with a good plot and a bad cast"] * 20


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(LINES), encoding="utf-8")
    return str(file)


def test_lines_are_packed_into_full_rows(text):
    """Nothing is lost but the last, open row; every row has its special tokens."""
    tokenizer = toy_tokenizer()
    data = load_corpus(None, tokenizer, 12, text)
    rows = [*data.train["input_ids"], *data.validation["input_ids"]]
    assert data.name == "text"
    assert {len(row) for row in rows} == {12} == set(data.train["length"])
    assert {(row[0], row[-1]) for row in rows} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    packed = [token for row in rows for token in row[1:-1] if token != tokenizer.sep_token_id]
    single = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in LINES if line]
    whole = [token for ids in single for token in ids]
    assert packed == whole[: len(packed)]
    assert len(whole) - len(packed) < 12
    assert len(data.validation) == max(1, int(len(rows) * 0.05))


def test_line_by_line_and_a_file_for_evaluation(text):
    data = load_corpus("mine", toy_tokenizer(), 8, text, text, line_by_line=True, max_eval_samples=3)
    assert (data.name, len(data.train), len(data.validation)) == ("mine", 60, 3)
    assert max(data.train["length"]) == 8


def test_what_is_a_corpus():
    assert is_corpus("wikitext", None, None)
    assert is_corpus(None, "a.txt", None)
    assert not is_corpus("SST-2", None, None)
    assert not is_corpus("wikitext", "a.csv", None)


def test_refused(text, tmp_path):
    tokenizer = toy_tokenizer()
    with pytest.raises(UserError, match="no such file"):
        load_corpus(None, tokenizer, 12, str(tmp_path / "missing.txt"))
    (tmp_path / "short.txt").write_text("good")
    with pytest.raises(UserError, match="too little text for a train row of 12 tokens: give more text"):
        load_corpus(None, tokenizer, 12, str(tmp_path / "short.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 50)
    with pytest.raises(UserError, match="expected UTF-8"):
        load_corpus(None, tokenizer, 12, str(tmp_path / "latin.txt"))
    with pytest.raises(UserError, match="can't load wikitext from the hub"):
        load_corpus("wikitext", tokenizer, 12)


def test_a_corpus_in_the_hubs_layout(tmp_path, monkeypatch):
    """wikitext is asked for as Salesforce/wikitext, Parquet files: here from a folder of that name."""
    import datasets

    folder = tmp_path / "Salesforce" / "wikitext"
    (folder / "wikitext-103-raw-v1").mkdir(parents=True)
    for split in ("train", "validation"):
        data = datasets.Dataset.from_dict({"text": LINES})
        data.to_parquet(folder / "wikitext-103-raw-v1" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: wikitext-103-raw-v1\n  data_files:\n"
        "  - split: train\n    path: wikitext-103-raw-v1/train-*\n"
        "  - split: validation\n    path: wikitext-103-raw-v1/validation-*\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = toy_tokenizer()
    data = load_corpus("wikitext", tokenizer, 12)
    assert "plot was good" in tokenizer.decode(data.train["input_ids"][0])
    assert {len(row) for row in data.train["input_ids"]} == {12}
    assert len(data.validation) > 0
