"""Every source of rows gives the same columns; every bad input gives one line that names the remedy."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from prumux.data.loading import TaskData, load_task, tokenize
from prumux.data.tasks import TASKS
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError

TOKENIZER = toy_tokenizer()
# Per GLUE task: (header or None, row, our text, our text_pair, our label)
GLUE_ROWS = {
    "MNLI": ("index\tsentence1\tsentence2\tlabel1\tgold_label", "0\ta dog\ta cat\tx\tneutral", "neutral"),
    "QNLI": ("index\tquestion\tsentence\tlabel", "0\ta dog\ta cat\tnot_entailment", "not_entailment"),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\ta dog\ta cat\t1", "duplicate"),
    "SST-2": ("sentence\tlabel", "a dog\t0", "negative"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\ta dog\ta cat", "equivalent"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\ta dog\ta cat\tentailment", "entailment"),
    "CoLA": (None, "gj04\t0\t*\ta dog", "unacceptable"),
    "STS-B": ("index\tgenre\tsentence1\tsentence2\tscore", "0\tnews\ta dog\ta cat\t3.80", 3.8),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "0\ta dog\ta cat\t0", "not_entailment"),
}


def _write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _write_glue(root: Path, name: str, folder: str | None = None) -> Path:
    header, row, _ = GLUE_ROWS[name]
    for file in (TASKS[name].train_files[0], TASKS[name].validation_files[0]):
        _write(root / (folder or name) / file, *([header] if header else []), row, row)
    return root


# ---- GLUE's own files


@pytest.mark.parametrize("name", GLUE_ROWS)
def test_glue_files_of_every_task(tmp_path: Path, name: str) -> None:
    data = load_task(name.lower(), data_dir=_write_glue(tmp_path, name))
    expected = {"text": "a dog", "text_pair": "a cat", "label": GLUE_ROWS[name][2]}
    if len(TASKS[name].text_columns) == 1:
        del expected["text_pair"]
    for split in (data.train, data.validation):
        assert list(split) == [expected, expected]
    assert data.name == name
    assert data.metrics == TASKS[name].metrics
    assert data.main_metric == TASKS[name].main_metric
    assert data.label_names == (list(TASKS[name].label_names) if TASKS[name].label_names else None)


def test_data_dir_may_be_the_tasks_own_folder(tmp_path: Path) -> None:
    _write_glue(tmp_path, "SST-2")
    assert list(load_task("SST2", data_dir=tmp_path / "SST-2").train) == list(
        load_task("SST2", tmp_path).train
    )


def test_mnli_reads_the_matched_development_file(tmp_path: Path) -> None:
    _write_glue(tmp_path, "MNLI")
    (tmp_path / "MNLI/dev_matched.tsv").rename(tmp_path / "MNLI/dev_mismatched.tsv")
    with pytest.raises(UserError, match=r"no validation file of MNLI.*dev_matched\.tsv"):
        load_task("MNLI", data_dir=tmp_path)


def test_mrpc_reads_the_published_file_names(tmp_path: Path) -> None:
    header, row, _ = GLUE_ROWS["MRPC"]
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"):
        _write(tmp_path / "MRPC" / name, "\ufeff" + header, row)
    assert load_task("MRPC", data_dir=tmp_path).train["label"][:] == ["equivalent"]


def test_quotes_are_plain_characters_in_tsv(tmp_path: Path) -> None:
    texts = ['"an unclosed quote', 'a "quoted" word', "it 's", '"" ""', "a lone \x85 or \u2028 separator"]
    for name in ("train.tsv", "dev.tsv"):
        _write(tmp_path / name, "sentence\tlabel", *(f"{text}\t1" for text in texts))
    assert load_task("SST-2", data_dir=tmp_path).train["text"][:] == texts


def test_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\r\na dog\t1\r\n")
    data = load_task("SST-2", data_dir=tmp_path, splits=("train",))
    assert list(data.train) == [{"text": "a dog", "label": "positive"}]
    assert data.validation is None


def test_malformed_glue_rows_are_skipped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_glue(tmp_path, "QQP")
    with open(tmp_path / "QQP/train.tsv", "a", encoding="utf-8") as file:
        file.write("9\t1\t2\tno second question\n")
    with caplog.at_level(logging.WARNING):
        assert len(load_task("QQP", data_dir=tmp_path).train) == 2
    assert "skipped 1 rows" in caplog.text


# ---- the user's own files


def _own_file(path: Path, rows: list[dict]) -> Path:
    columns = list(rows[0])
    if path.suffix == ".jsonl":
        return _write(path, *(json.dumps(row) for row in rows))
    if path.suffix == ".json":
        return _write(path, json.dumps(rows))
    if path.suffix == ".csv":
        quoted = [
            '"' + '","'.join(str(row[name]).replace('"', '""') for name in columns) + '"' for row in rows
        ]
        return _write(path, ",".join(columns), *quoted)
    return _write(path, "\t".join(columns), *("\t".join(str(row[name]) for name in columns) for row in rows))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl"])
def test_own_files_of_every_type(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"premise": 'she said "no", twice', "hypothesis": "a, b", "label": "no"},
        {"premise": "p", "hypothesis": "h", "label": "yes"},
    ]
    train = _own_file(tmp_path / f"mine{suffix}", rows)
    validation = _own_file(tmp_path / f"other{suffix}", rows[1:])
    data = load_task(train_file=train, validation_file=str(validation))
    assert list(data.train) == [
        {"text": row["premise"], "text_pair": row["hypothesis"], "label": row["label"]} for row in rows
    ]
    assert data.validation["label"][:] == ["yes"]
    assert (data.name, data.label_names, data.metrics) == ("mine", ["no", "yes"], ("accuracy",))


def test_json_shapes(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    wrapped = _write(tmp_path / "a.json", json.dumps({"data": rows}))
    lines = _write(tmp_path / "b.json", *map(json.dumps, rows))
    data = load_task(train_file=wrapped, validation_file=lines)
    assert list(data.train) == list(data.validation) == [row | {"label": str(row["label"])} for row in rows]


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0b", "\x0c"])
def test_only_line_ends_end_a_row(tmp_path: Path, character: str) -> None:
    path = _write(tmp_path / "a.csv", "text,label", f"one{character}two,x", "three,y")
    data = load_task(train_file=path, validation_file=path)
    assert data.train is not None
    assert data.train["text"][0] == f"one{character}two"


def test_a_multi_line_csv_field(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label", '"two', 'lines",x', "one,y")
    assert load_task(train_file=path).train["text"][:] == ["two\nlines", "one"]


def test_own_scores_are_a_regression(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "sentence1,sentence2,score", "a,b,2", "a,c,3.5")
    data = load_task(train_file=path)
    assert data.label_names is None
    assert data.metrics == ("pearson", "spearmanr")
    assert data.train["label"][:] == [2.0, 3.5]
    assert tokenize(data, TOKENIZER, 16).train["labels"][:] == [2.0, 3.5]


def test_whole_numbers_are_scores_to_a_model_of_scores(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label", "a,0", "b,4")
    data = load_task(validation_file=path, scores=True)
    assert data.label_names is None
    assert data.validation["label"][:] == [0.0, 4.0]


def test_a_single_label_is_nothing_to_learn(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label", "a,yes", "b,yes")
    with pytest.raises(UserError, match=r"every label in .* is 'yes'.*at least two labels"):
        load_task(train_file=path)


def test_whole_numbers_are_classes(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label", "a,0", "b,10", "c,2")
    assert load_task(train_file=path).label_names == ["0", "10", "2"]


def test_own_file_of_a_known_task(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "text,label", "good,Positive", "bad,0")
    data = load_task("SST-2", train_file=path)
    assert data.train["label"][:] == ["positive", "negative"]
    assert data.label_names == ["negative", "positive"]
    assert data.validation is None


def test_only_a_validation_file(tmp_path: Path) -> None:
    data = load_task("SST-2", validation_file=_write(tmp_path / "a.tsv", "sentence\tlabel", "a\t1"))
    assert data.train is None
    assert len(data.validation) == 1


def test_first_samples() -> None:
    data = load_task("toy", max_train_samples=7, max_eval_samples=3)
    assert (len(data.train), len(data.validation)) == (7, 3)
    assert data.train["text"][:] == load_task("toy").train["text"][:7]


def test_classes_are_those_of_all_rows(tmp_path: Path) -> None:
    file = _write(tmp_path / "sorted.csv", "text,label", *[f"row {i},{'ab'[i // 5]}" for i in range(10)])
    data = load_task(None, None, file, file, max_train_samples=5)
    assert (len(data.train), data.label_names) == (5, ["a", "b"])


# ---- the hub (replaced: tests are offline)


def test_hub_labels_are_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    order = ["contradiction", "entailment", "neutral"]  # not GLUE's order: positions must not matter

    def load_dataset(*arguments: str, split: str) -> Dataset:
        asked.append((*arguments, split))
        columns = {"premise": ["p", "q"], "hypothesis": ["h", "i"], "label": [0, 2], "idx": [0, 1]}
        text, number = Value("string"), Value("int32")
        types = {"premise": text, "hypothesis": text, "label": ClassLabel(names=order), "idx": number}
        return Dataset.from_dict(columns, features=Features(types))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_task("mnli")
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched")]
    assert list(data.train) == [
        {"text": "p", "text_pair": "h", "label": "contradiction"},
        {"text": "q", "text_pair": "i", "label": "neutral"},
    ]
    assert data.label_names == ["entailment", "neutral", "contradiction"]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: str, split: str) -> Dataset:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        UserError, match=r"can't load SST-2 from the hub.*check the network, or give --data_dir"
    ):
        load_task("SST-2")


# ---- bad input


def test_wrong_task_name() -> None:
    with pytest.raises(UserError, match=r"unknown task 'SST-3': did you mean 'SST-2'\? choose one of MNLI"):
        load_task("SST-3")


def test_nothing_named() -> None:
    with pytest.raises(UserError, match=r"give --task_name .* or --train_file"):
        load_task()
    with pytest.raises(UserError, match="give --task_name"):
        load_task(data_dir="somewhere")


def test_two_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude each other: give one"):
        load_task("SST-2", data_dir=tmp_path, train_file=tmp_path / "a.tsv")
    with pytest.raises(UserError, match="toy is generated by the package: leave --data_dir out"):
        load_task("toy", data_dir=tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train file of SST-2 in .*SST-2/train\.tsv.*correct --data_dir"):
        load_task("SST-2", data_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no such file: '.*a\.tsv': correct --train_file"):
        load_task(train_file=tmp_path / "a.tsv")
    with pytest.raises(UserError, match=r"a\.parquet': expected a file that ends in \.csv, \.tsv"):
        load_task(train_file=tmp_path / "a.parquet")


def test_missing_columns_in_glue_file(tmp_path: Path) -> None:
    _write_glue(tmp_path, "SST-2")
    _write(tmp_path / "SST-2/dev.tsv", "text\tlabel", "a dog\t1")
    with pytest.raises(UserError, match=r"dev\.tsv' lacks the column 'sentence'.*found text, label; correct"):
        load_task("SST-2", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("body\tlabel", r"lacks a text column \(text\+text_pair or .*its columns are .*body.*rename"),
        ("text\tclass", r"lacks a label column \(label\).*rename"),
    ],
)
def test_missing_columns_in_own_file(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(train_file=_write(tmp_path / "a.tsv", header, "a\tb"))


def test_pair_task_needs_a_pair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks a text column \(sentence1\+sentence2 or premise\+hypothesis"):
        load_task("MNLI", train_file=_write(tmp_path / "a.tsv", "text\tlabel", "a\tneutral"))


def test_row_with_too_few_fields(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tsv", "text\tlabel", "a\tx", "no tab here")
    with pytest.raises(
        UserError, match=r"line 3 has 1 fields for the 2 columns text, label: separate the columns"
    ):
        load_task(train_file=path)
    path = _write(tmp_path / "a.csv", "text,label", "a,x", "no comma here")
    with pytest.raises(UserError, match=r"line 3 has no 'label': fill it in or remove the row"):
        load_task(train_file=path)
    path = _write(tmp_path / "a.jsonl", '{"text": "a", "label": "x"}', '{"text": "a"}')
    with pytest.raises(UserError, match=r"lacks the column 'label' \(line 2\)"):
        load_task(train_file=path)


def test_row_with_too_many_fields(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2 has 3 fields for the 2 columns text, label"):
        load_task(train_file=_write(tmp_path / "a.tsv", "text\tlabel", "a\tb\tx"))
    with pytest.raises(UserError, match="line 2 has more fields than columns: quote texts"):
        load_task(train_file=_write(tmp_path / "a.csv", "text,label", "a, b,x"))


def test_unknown_labels(tmp_path: Path) -> None:
    _write_glue(tmp_path, "SST-2")
    _write(tmp_path / "SST-2/dev.tsv", "sentence\tlabel", "a dog\t1", "a cat\t2")
    with pytest.raises(
        UserError,
        match=r"unknown label '2' in row 2 of the validation split of SST-2: expected .*negative, positive",
    ):
        load_task("SST-2", data_dir=tmp_path)
    train = _write(tmp_path / "a.tsv", "text\tlabel", "a\tx", "b\ty")
    validation = _write(tmp_path / "b.tsv", "text\tlabel", "a\tz")
    with pytest.raises(
        UserError, match=r"unknown label 'z' in row 1 of .*b\.tsv: expected one of x, y; correct"
    ):
        load_task(train_file=train, validation_file=validation)


def test_a_score_that_is_no_number(tmp_path: Path) -> None:
    for score in ("high", "nan"):
        path = _write(tmp_path / "a.tsv", "sentence1\tsentence2\tscore", f"a\tb\t{score}")
        with pytest.raises(UserError, match=rf"'{score}' in .* is not a number: give a score"):
            load_task("STS-B", train_file=path)


@pytest.mark.parametrize("content", ["", "sentence\tlabel\n", "\n\n"])
def test_empty_data(tmp_path: Path, content: str) -> None:
    _write_glue(tmp_path, "SST-2")
    (tmp_path / "SST-2/train.tsv").write_text(content)
    with pytest.raises(
        UserError, match="train split of SST-2 holds no rows: give data with at least one row"
    ):
        load_task("SST-2", data_dir=tmp_path)
    for name in ("a.tsv", "a.csv", "a.json"):
        (tmp_path / name).write_text("[]" if name == "a.json" else content)
        with pytest.raises(UserError, match="holds no rows"):
            load_task(train_file=tmp_path / name)


def test_no_samples() -> None:
    with pytest.raises(UserError, match="at most 0 train rows asked for: give at least 1"):
        load_task("toy", max_train_samples=0)


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("text\tlabel\nna\u00efve\tx\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8 text .* save it as UTF-8"):
        load_task(train_file=tmp_path / "a.tsv")
    with pytest.raises(UserError, match=r"is not JSON .* expected a list of objects"):
        load_task(train_file=_write(tmp_path / "a.json", '[{"text": "a",'))
    with pytest.raises(UserError, match=r"item 1 is not an object: expected \{"):
        load_task(train_file=_write(tmp_path / "b.json", "[1, 2]"))
    with pytest.raises(UserError, match=r"line \d is not CSV"):
        load_task(train_file=_write(tmp_path / "a.csv", "text,label", '"never closed,x'))


def test_every_message_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_task("SST-2", data_dir=tmp_path)
    assert "\n" not in str(error.value)


# ---- tokens


def _two_rows() -> TaskData:
    rows = {"text": ["the plot is dull", "the cast was not warm"], "label": ["negative", "positive"]}
    train = Dataset.from_dict(rows)
    return TaskData("toy", train, None, ["negative", "positive"], ("accuracy",), "accuracy")


def test_tokens_and_labels() -> None:
    data = _two_rows()
    tokens = tokenize(data, TOKENIZER, max_length=16)
    assert set(tokens.train.column_names) == {
        "input_ids",
        "token_type_ids",
        "attention_mask",
        "labels",
        "length",
    }
    assert tokens.train["length"][:] == [6, 7]  # not padded
    assert tokens.train[0]["input_ids"] == TOKENIZER("the plot is dull")["input_ids"]
    assert tokens.train["labels"][:] == [0, 1]
    assert tokens.validation is None
    assert data.train.column_names == ["text", "label"]


def test_pairs_and_cutting() -> None:
    data = tokenize(load_task("toy-nli", max_train_samples=20, max_eval_samples=20), TOKENIZER, max_length=10)
    assert max(data.train["length"][:]) == 10
    assert data.train[0]["token_type_ids"][0] == 0
    assert data.train[0]["token_type_ids"][-1] == 1


def test_a_tokenizer_without_token_types() -> None:
    tokenizer = toy_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in tokenize(_two_rows(), tokenizer, 16).train.column_names


@pytest.mark.parametrize(
    "label2id", [{"positive": 0, "negative": 1}, {"POSITIVE": 0, "NEGATIVE": 1, "other": 2}]
)
def test_labels_are_mapped_by_name(label2id: dict[str, int]) -> None:
    assert tokenize(_two_rows(), TOKENIZER, 16, label2id).train["labels"][:] == [1, 0]


def test_labels_the_model_does_not_have() -> None:
    with pytest.raises(
        UserError, match=r"no label negative, positive: toy has .* the model LABEL_0, LABEL_1; take"
    ):
        tokenize(_two_rows(), TOKENIZER, 16, {"LABEL_0": 0, "LABEL_1": 1})


def test_no_room_for_text() -> None:
    with pytest.raises(UserError, match="length of 3 tokens leaves no room for text: give at least 4"):
        tokenize(_two_rows(), TOKENIZER, 3)


def test_importing_the_module_needs_no_datasets() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['datasets'] = None; import prumux.data.loading, prumux.data.grouping"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
