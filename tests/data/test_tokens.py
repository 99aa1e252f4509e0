"""Words with tags: files as they come, one line for every broken one, tags on the first piece of a word."""

from __future__ import annotations

import json

import pytest
import torch

from prumux.data.grouping import IGNORE, GroupingCollator
from prumux.data.loading import load_task, tokenize
from prumux.data.tokens import read_file
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError

CONLL = "-DOCSTART- -X- O\n\nthe DT O\nplot NN B-PART\n\ngood JJ O\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("end", ["", "\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_conll(tmp_path, end, newline):
    file = write(tmp_path / "train.conll", (CONLL.rstrip("\n") + end).replace("\n", newline))
    assert read_file(file) == {"text": [["the", "plot"], ["good"]], "label": [["O", "B-PART"], ["O"]]}


def test_spaces_belong_to_a_word_between_tabs(tmp_path):
    assert read_file(write(tmp_path / "a.txt", "New York\tB-LOC\n"))["text"] == [["New York"]]


def test_json(tmp_path):
    rows = [{"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]}, {"tokens": ["c"], "ner_tags": ["O"]}]
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        assert read_file(write(tmp_path / "a.json", text))["label"] == [["O", "B-X"], ["O"]]


def test_a_hash_is_a_word_and_a_comment_is_not(tmp_path):
    file = write(tmp_path / "a.conll", "# sent_id = 1\n# O\nhello O\n\n# id = 2\ngood O\n")
    assert read_file(file)["text"] == [["#", "hello"], ["good"]]


def test_tags_without_entities_are_scored_by_word(tmp_path):
    write(tmp_path / "train.conll", "the DET\nplot NOUN\n")
    data = load_task(train_file=tmp_path / "train.conll")
    assert (data.metrics, data.main_metric) == (("token_accuracy",), "token_accuracy")


def test_tags_are_those_of_all_rows(tmp_path):
    write(tmp_path / "train.conll", "the O\n\nplot B-X\n")
    assert load_task(train_file=tmp_path / "train.conll", max_train_samples=1).label_names == ["B-X", "O"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.conll", "the O\nplot NN B-PART\n", r"line 2 has 3 columns, expected 2 .*correct the line"),
        ("a.conll", "the O\n\nplot\n", r"line 3 has 1 columns, expected 2"),
        ("a.conll", "the\n", r"line 1 has 1 columns, expected 2"),
        (
            "a.json",
            '{"tokens": ["a"], "ner_tags": ["O", "O"]}',
            r"row 1 has 1 words and 2 tags: give every word one",
        ),
        (
            "a.json",
            '{"tokens": ["a"]}',
            r"row 1 lacks words or tags: expected lists under tokens and ner_tags",
        ),
        ("a.json", "{", r"is not JSON"),
        (
            "a.json",
            '{"tokens": ["a"], "ner_tags": [0]}',
            r"row 1 has 0 for a word or tag: write tags as names such as",
        ),
        ("a.json", '{"tokens": [null], "ner_tags": ["O"]}', r"row 1 has None for a word or tag"),
        ("a.conll", "a\tO\nb\t\n", r"line 2 lacks its word or its tag: fill it in"),
        ("a.conll", "a\tO\n\tO\n", r"line 2 lacks its word or its tag"),
        ("a.csv", "x", r"can't read .*expected a file that ends in \.conll"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_file(write(tmp_path / name, text))
    assert "\n" not in str(error.value)


def test_missing_files_and_wrong_tasks(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_file(tmp_path / "a.conll")
    with pytest.raises(
        UserError, match=r"no train file of NER in .*expected train.conll with a word and its tag"
    ):
        load_task("ner", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"SST-2 labels whole texts, not words: use run_glue\.py"):
        load_task("sst2", data_dir=tmp_path, tag_words=True)
    write(tmp_path / "empty.conll", "\n\n")
    with pytest.raises(UserError, match="holds no rows"):
        load_task(train_file=tmp_path / "empty.conll")


def test_the_first_piece_of_a_word_carries_its_tag(tmp_path):
    """Other pieces, special tokens and padding don't count; a word of no piece becomes the unknown token."""
    tokenizer = toy_tokenizer()
    write(tmp_path / "train.conll", "the O\n\u200b B-X\nplot I-X\n\ngood O\n")
    data = load_task(train_file=tmp_path / "train.conll")
    assert data.tokens
    assert (data.label_names, data.main_metric) == (["B-X", "I-X", "O"], "f1")
    rows = tokenize(data, tokenizer, 16, {"O": 0, "B-X": 1, "I-X": 2}).train
    assert [label for label in rows[0]["labels"] if label != IGNORE] == [0, 1, 2]
    assert tokenizer.unk_token_id in rows[0]["input_ids"]
    batch = GroupingCollator(tokenizer, 3)([rows[0], rows[1]])
    assert batch["labels"].shape == batch["input_ids"].shape == (3, max(rows["length"]))
    assert (batch["labels"][2] == IGNORE).all()
    assert (batch["labels"][:2] != IGNORE).sum() == 4
    cut = tokenize(data, tokenizer, 4, {"O": 0, "B-X": 1, "I-X": 2}).train
    assert len(cut[0]["input_ids"]) == 4


def test_a_data_set_in_the_hubs_layout(tmp_path, monkeypatch):
    """CoNLL-2003 is asked for as lhoestq/conll2003, Parquet files with classes: here from a folder of that name."""
    import datasets

    features = datasets.Features({
        "id": datasets.Value("string"),
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
    })  # fmt: skip
    folder = tmp_path / "lhoestq" / "conll2003" / "data"
    folder.mkdir(parents=True)
    rows = {"id": ["0", "1"], "tokens": [["Ann", "Lee", "spoke"], ["good"]], "ner_tags": [[1, 2, 0], [0]]}
    for split in ("train", "validation", "test"):
        data = datasets.Dataset.from_dict(rows, features=features)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = load_task("NER")
    assert loaded.train["text"][0] == ["Ann", "Lee", "spoke"]
    assert loaded.train["label"][0] == ["B-PER", "I-PER", "O"]
    assert len(loaded.validation) == 2


@pytest.mark.parametrize(
    "text",
    [
        "# sent_id = 1\n# text = the plot\nthe DT B O\nplot NN I B-X\n\n# sent_id = 2\ngood JJ B O\n",  # as many fields
        "# id 52-39\tdomain=en\n\nthe _ _ O\nplot _ _ B-X\n\n# id 52-40\tdomain=en\ngood _ _ O\n",  # a tab of its own
    ],
)
def test_comments_with_any_number_of_fields(tmp_path, text):
    found = read_file(write(tmp_path / "a.conll", text))
    assert found == {"text": [["the", "plot"], ["good"]], "label": [["O", "B-X"], ["O"]]}


def test_a_first_column_that_counts_is_refused(tmp_path):
    with pytest.raises(UserError, match="counts 1, 2, 3: put the word there"):
        read_file(write(tmp_path / "a.iob2", "1\tthe\tO\t-\n2\tplot\tB-X\t-\n\n1\tgood\tO\t-\n"))


def test_a_single_tag_is_nothing_to_learn(tmp_path):
    file = write(tmp_path / "train.conll", "the O\nplot O\n")
    with pytest.raises(UserError, match=r"every tag in .*train.conll is 'O'.*at least two tags"):
        load_task(train_file=file)
    assert load_task(validation_file=file).label_names == ["O"]  # what another model is scored on


def test_words_beyond_the_length_count_as_missed(tmp_path):
    """The first row is cut after "plot": its second entity is one that nothing found."""
    from prumux.evaluation.predict import evaluate

    file = write(tmp_path / "a.conll", "the O\nplot B-X\nwas O\ncast B-X\nfunny O\n\nthe O\ncast B-X\n")
    tokenizer = toy_tokenizer()
    data = tokenize(load_task(train_file=file, validation_file=file), tokenizer, 5, {"B-X": 0, "O": 1})
    assert data.validation["cut"] == [[0, 1], []]

    def right(input_ids, **_):
        nouns = torch.isin(input_ids, torch.tensor(tokenizer.convert_tokens_to_ids(["plot", "cast"])))
        return torch.stack([nouns, ~nouns], -1).float()

    found = evaluate(right, data, tokenizer, batch_size=2, num_instances=1, progress=False)
    assert (found["precision"], found["recall"]) == (1.0, pytest.approx(2 / 3))
    assert found["token_accuracy"] == pytest.approx(6 / 7)
