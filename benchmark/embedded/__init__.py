"""Datasets and models of the default suite: everything here works without a model hub."""

from __future__ import annotations


def register_models() -> None:
    """Make the text convolution models known to the Auto classes; may be called repeatedly.

    After it `AutoConfig.for_model("text-cnn")`, `AutoModelForSequenceClassification.from_config`
    and `from_pretrained` of a saved folder work as they do for a model of the library.
    """
    # Imported here because the models need torch and transformers, which take seconds to import.
    from benchmark.embedded.lfm2_convolution import register as register_lfm2_convolution
    from benchmark.embedded.text_cnn import register as register_text_cnn

    register_text_cnn()
    register_lfm2_convolution()
