"""The few lines of Python with which an export gives calibrated probabilities."""

from __future__ import annotations

from typing import Literal

from benchmark.export.finding import FinishedRun
from benchmark.export.inference import TextOptions
from benchmark.report import pipeline_lines

Form = Literal["transformers", "onnx"]

Pictures = Literal["colour", "grey", "timm"]
"""What a model's image processor takes: timm's gives tensors of torch only."""

_GREY = 'np.asarray(Image.open("picture.png").convert("L"))[:, :, None]'


def usage_lines(
    run: FinishedRun,
    place: str,
    form: Form,
    options: TextOptions,
    *,
    has_own_code: bool = False,
    pictures: Pictures = "colour",
) -> list[str]:
    """Return the lines that an export's README shows.

    Args:
        run: that was exported.
        place: folder or repository of the export.
        form: of the export.
        options: of the tokenizer.
        has_own_code: whether the checkpoint comes with code of its own.
        pictures: that the model takes; pipelines read no grey ones.
    """
    modality, classes = run.spec.model.modality, len(run.data.label_names)
    if modality == "image" and form == "onnx":
        return _graph_of_images(place, pictures)
    if modality == "image" and pictures == "grey":
        return _grey_checkpoint(place, has_own_code)
    is_pair = run.spec.dataset.columns.text_pair is not None
    arguments = [f"{name}={_python(value)}" for name, value in options.arguments().items()]
    if form == "onnx":
        arguments += [] if options.is_fixed else ["padding=True"]
        return _graph_of_texts(place, arguments, is_pair)
    return pipeline_lines(
        modality,
        place,
        classes=classes,
        has_own_code=has_own_code,
        is_pair=is_pair,
        options=arguments,
    )


def _python(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _session(place: str, call: str, *, of_torch: bool = False) -> list[str]:
    value = "inputs[one.name].numpy()" if of_torch else "inputs[one.name]"
    return [
        f'session = onnxruntime.InferenceSession("{place}/model.onnx")',
        f"inputs = {call}",
        f"taken = {{one.name: {value} for one in session.get_inputs()}}",
        "print(session.run(None, taken)[0])  # classes in the order of calibration.json",
    ]


def _graph_of_texts(place: str, arguments: list[str], is_pair: bool) -> list[str]:
    texts = '["One"], ["Other"]' if is_pair else '["A text to classify"]'
    call = ", ".join([texts, *arguments, 'return_tensors="np"'])
    return [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
        *_session(place, f"tokenizer({call})"),
    ]


def _processor(place: str) -> str:
    return f'processor = AutoImageProcessor.from_pretrained("{place}", backend="pil")'


def _graph_of_images(place: str, pictures: Pictures) -> list[str]:
    is_grey, of_torch = pictures == "grey", pictures == "timm"
    picture = _GREY if is_grey else 'Image.open("picture.png").convert("RGB")'
    form = ', input_data_format="channels_last"' if is_grey else ""
    tensors = "pt" if of_torch else "np"
    call = f'processor(picture{form}, return_tensors="{tensors}")'
    return [
        *(["import numpy as np"] if is_grey else []),
        "import onnxruntime",
        "from PIL import Image",
        "from transformers import AutoImageProcessor",
        "",
        _processor(place),
        f"picture = {picture}",
        *_session(place, call, of_torch=of_torch),
    ]


def _grey_checkpoint(place: str, has_own_code: bool) -> list[str]:
    code = ", trust_remote_code=True" if has_own_code else ""
    return [
        "import numpy as np",
        "from PIL import Image",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        "",
        _processor(place),
        f'model = AutoModelForImageClassification.from_pretrained("{place}"{code})',
        f"picture = {_GREY}",
        'inputs = processor(picture, input_data_format="channels_last", return_tensors="pt")',
        'T = model.config.calibration["temperature"]',
        "print((model(**inputs).logits / T).softmax(-1))",
    ]
