from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from input_files import (
    NAMES,
    as_csv,
    labels_by_text,
    read,
    table,
    text_entry,
    write_csv,
    write_jsonl,
    write_parquet,
    write_splits,
)

from benchmark.data.corpus import resolve_data_revision, shifted_rows
from benchmark.failures import RunError, UnavailableError
from benchmark.plan import RunSpec
from benchmark.registry import ModelEntry, Recipe

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"
ROWS = [{**row, "text": f"{row['text']}; one, two\t|three"} for row in table(30)]
TRUTH = {row["text"]: row["label"] for row in ROWS}


def one_file(path: Path, content: str | bytes, **fields: Any) -> dict[str, str]:
    """The label of every row of a file with 20% of test rows."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return labels_by_text(read(text_entry(path, splits={"test": 0.2}, **fields)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "CSV"])
def test_any_separator_under_any_suffix(tmp_path: Path, delimiter: str, suffix: str) -> None:
    assert one_file(tmp_path / f"all.{suffix}", as_csv(ROWS, delimiter)) == TRUTH


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_compressed_tables(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    content = as_csv(ROWS).encode()
    assert one_file(tmp_path / f"all.csv{suffix}", compress(content)) == TRUTH
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    assert one_file(tmp_path / f"all.JSONL{suffix.upper()}", compress(lines)) == TRUTH
    with pytest.raises(UnavailableError, match="cannot be decompressed"):
        one_file(tmp_path / f"cut.csv{suffix}", compress(content)[:-9])


def test_a_zip_of_one_table_and_of_two(tmp_path: Path) -> None:
    for path, members in (("one.csv.zip", ["a.csv"]), ("two.csv.zip", ["a.csv", "b.csv"])):
        with zipfile.ZipFile(tmp_path / path, "w") as archive:
            for member in members:
                archive.writestr(member, as_csv(ROWS))
    assert labels_by_text(read(text_entry(tmp_path / "one.csv.zip"))) == TRUTH
    with pytest.raises(UnavailableError, match="holds 2 files: unpack it"):
        read(text_entry(tmp_path / "two.csv.zip"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_encodings_that_mark_themselves(tmp_path: Path, encoding: str) -> None:
    rows = [{**row, "text": f"{row['text']} Ŝtrüdel 🌳"} for row in table(30)]
    truth = {row["text"]: row["label"] for row in rows}
    assert one_file(tmp_path / "all.csv", as_csv(rows).encode(encoding)) == truth


def test_other_encodings_are_asked_for(tmp_path: Path) -> None:
    rows = [{**row, "text": f"{row['text']} café"} for row in table(30)]
    content = as_csv(rows).encode("cp1252")
    with pytest.raises(UnavailableError, match=r"all\.csv, line 2: byte 0xe9 .*encoding: cp1252"):
        one_file(tmp_path / "all.csv", content)
    truth = {row["text"]: row["label"] for row in rows}
    assert one_file(tmp_path / "named.csv", content, encoding="cp1252") == truth
    with pytest.raises(UnavailableError, match="no encoding is called 'klingon'"):
        one_file(tmp_path / "all.csv", content, encoding="klingon")
    with pytest.raises(UnavailableError, match="encoding: utf-16-le"):
        one_file(tmp_path / "all.csv", content.decode("cp1252").encode("utf-16-le"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,ash\nb\n", r"all\.csv, line 3: 1 cells, but the header has 2"),
        ("text,label\na,ash\nb, or c,elm\n", "line 3: 3 cells"),
        ('text,label\n"a,ash\nb,elm\n', "unexpected end of data"),
        ('text,label\n"a"b",ash\n', "line 2: .*a quote inside a quoted text is doubled"),
        ("text,label,text\na,ash,b\n", "two columns are called 'text'"),
        ("", "all.csv is empty"),
        ("text,label\n", "has no rows"),
        ("a one,ash\na two,elm\n", "no column 'label'; known: a one, ash"),
        (POINTER, "git-lfs has not fetched all.csv: run 'git lfs pull'"),
        ("<!DOCTYPE html>\n<html></html>\n", "no column 'label'"),
    ],
)
def test_csv_files_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        one_file(tmp_path / "all.csv", content)


def test_quotes_in_tables_of_tabs(tmp_path: Path) -> None:
    """A quote that is never closed would otherwise swallow the rows up to the next one."""
    texts = ['"Yes', '5" disc', 'a "b" c', 'No", said', "plain", '"whole"']
    lines = [f"{text} {i}\t{NAMES[i % 3]}" for i, text in enumerate(texts)]
    labels = one_file(tmp_path / "all.tsv", "text\tlabel\n" + "\n".join(lines))
    assert labels == {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    quoted = [{"text": f'say "{i}"\nor\tnot', "label": NAMES[i % 3]} for i in range(9)]
    labels = one_file(tmp_path / "quoted.tsv", as_csv(quoted, "\t"))
    assert labels == {row["text"]: row["label"] for row in quoted}


def test_what_spreadsheets_add(tmp_path: Path) -> None:
    lines = [f"{row['text']};{row['label']};;" for row in table(30)]
    content = "sep=;\r\n text ; label ;;\r\n" + "\r\n".join(lines) + "\r\n;;;\r\n\r\n"
    assert one_file(tmp_path / "all.csv", content) == {r["text"]: r["label"] for r in table(30)}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
        json.dumps({key: {i: row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]}),
        json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}, indent=1),
        "\n\n".join(map(json.dumps, ROWS)),
    ],
)
def test_shapes_of_json(tmp_path: Path, content: str) -> None:
    assert one_file(tmp_path / "all.json", content) == TRUTH


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b", "label": \n', r"all\.jsonl, line 2: no JSON"),
        ('[{"text": "a", "label": 1},\n 3]', "row 2 is no object"),
        ('{\n"train": [{"text": "a"}],\n"test": [{"text": "b"}]}', "a file for each split"),
        ("\n\n", "is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        one_file(tmp_path / "all.jsonl", content)


def test_other_files_of_the_folder_are_left_alone(tmp_path: Path) -> None:
    write_splits(tmp_path, table(30))
    (tmp_path / "label_map.json").write_text('{"ash": 0}')
    (tmp_path / "sample_submission.csv").write_text("id\n1\n")
    (tmp_path / "._train.csv").write_bytes(b"\0\5\26\7")
    (tmp_path / "notes.txt").write_text("notes")
    assert len(labels_by_text(read(text_entry(tmp_path)))) == 39
    (tmp_path / "train.csv.gz").write_bytes(b"")
    with pytest.raises(UnavailableError, match=r"train\.csv and train\.csv\.gz both are"):
        read(text_entry(tmp_path))


def test_each_split_may_be_of_a_kind_of_its_own(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", table(30))
    write_jsonl(tmp_path / "test.jsonl", table(9, start=1000))
    assert len(labels_by_text(read(text_entry(tmp_path)))) == 39


def test_a_test_file_without_labels_says_what_to_do(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", table(30))
    write_csv(tmp_path / "test.csv", [{"text": f"hidden {i}"} for i in range(9)])
    with pytest.raises(RunError, match=r"test\.csv has no labels.*splits: \{test: 0\.2\}"):
        read(text_entry(tmp_path))
    assert len(labels_by_text(read(text_entry(tmp_path, splits={"test": 0.2})))) == 30


@pytest.mark.parametrize("name", ["train.csv", "reviews.csv"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_a_source_without_a_test_split_gets_one_and_says_so(
    tmp_path: Path, name: str, in_folder: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / name, table(50))
    data = text_entry(tmp_path if in_folder else path, name=f"d-{name}-{in_folder}")
    with caplog.at_level(logging.WARNING):
        resolve_data_revision(data)
    assert "20% of 'train' is held out" in caplog.text
    corpus = read(data)
    stated = read(data.model_copy(update={"splits": data.splits.model_copy(update={"test": 0.2})}))
    assert corpus.test.ids.tolist() == stated.test.ids.tolist()
    assert len(corpus.test) == 10
    assert any("splits: {test: 0.2}" in note for note in corpus.notes)


def test_a_split_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", table(30))
    write_csv(tmp_path / "validation.csv", table(9, start=1000))
    with pytest.raises(RunError, match=r"no split 'test'.*splits: \{test: 0\.2\}"):
        read(text_entry(tmp_path))
    corpus = read(text_entry(tmp_path, splits={"calibration": "validation"}))
    assert [len(corpus.train), len(corpus.calibration), len(corpus.test)] == [24, 9, 6]


def test_the_cause_of_an_unreadable_parquet_file_is_shown(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", table(30))
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UnavailableError, match=r"test\.parquet: .*(?i:parquet)") as caught:
        read(text_entry(tmp_path))
    assert "generating the dataset" not in str(caught.value)


def test_shifted_sets_of_sorted_rows_have_every_class(tmp_path: Path) -> None:
    rows = sorted(table(300, start=1000), key=lambda row: str(row["label"]))
    write_csv(tmp_path / "train.csv", table(30))
    write_csv(tmp_path / "test.csv", rows)
    entry = text_entry(tmp_path, shifts=("swap",), shift_rows=60)
    test = read(entry).test
    shifted = shifted_rows(entry, test, "swap-1")
    assert len(shifted) == 60
    assert set(shifted.labels) == {0, 1, 2}
    labels = dict(zip(test.ids, test.labels, strict=True))
    assert [labels[row] for row in shifted.ids] == shifted.labels.tolist()


def test_what_the_datasets_library_saved_is_read(tmp_path: Path) -> None:
    splits = {"train": table(30), "test": table(9, start=1000)}
    saved = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in splits.items()})
    saved.save_to_disk(tmp_path / "both")
    saved["train"].save_to_disk(tmp_path / "one")
    assert len(labels_by_text(read(text_entry(tmp_path / "both")))) == 39
    assert len(labels_by_text(read(text_entry(tmp_path / "one")))) == 30


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.xlsx").write_bytes(b"PK")
    with pytest.raises(UnavailableError, match=r"train\.xlsx is not one of \.csv"):
        read(text_entry(tmp_path / "train.xlsx"))
    with pytest.raises(UnavailableError, match=r"no files that are .*; found: train\.xlsx"):
        read(text_entry(tmp_path))


def test_runs_that_read_files_have_another_key_than_before() -> None:
    model = ModelEntry.model_validate(
        {
            "name": "m",
            "scratch": {"model_type": "bert"},
            "modality": "text",
            "mixer": "attention",
            "family": "BERT",
            "recipe": "r",
        }
    )

    def keys(data: dict[str, Any], limit: int | None) -> str:
        return RunSpec.model_validate(
            {
                "suite": "s",
                "model": model,
                "dataset": {"name": "d", "modality": "text", **data},
                "recipe": Recipe(epochs=1, batch_size=8, learning_rate=1e-3),
                "seed": 0,
                "limit": limit,
                "data_revision": "abc",
            }
        ).data_key()

    local = {"path": "x.csv", "columns": {"text": "text"}}
    embedded = {"embedded": "bbc-sentences"}
    # Files are read otherwise since; what was computed from them may hold wrong labels.
    assert keys(local, None) != "05247c0bb468d9f8"
    assert keys(embedded, None) == "499b00823ed1db00"
    assert keys(embedded, 40) == "1a99576b8fca0b46"
    assert keys(local, 40) != "3e23b9cefd7d7c8b"
