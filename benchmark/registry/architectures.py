"""What the architecture of a checkpoint says: `model_type` of transformers -> registry facts."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.registry.entries import Mixer, Modality


@dataclass(frozen=True)
class Architecture:
    """What is true of every checkpoint of a `model_type`."""

    modality: Modality
    mixer: Mixer
    family: str


_IMAGE: dict[Mixer, dict[str, str]] = {
    "attention": {
        "beit": "BEiT",
        "data2vec-vision": "data2vec",
        "deit": "DeiT",
        "dinov2": "DINOv2",
        "dinov2_with_registers": "DINOv2",
        "hiera": "Hiera",
        "ijepa": "I-JEPA",
        "pvt": "PVT",
        "swin": "Swin",
        "swinv2": "SwinV2",
        "vit": "ViT",
        "vit_msn": "MSN",
    },
    # Squeeze-and-excitation gates channels, not positions, so it does not make a hybrid.
    "convolution": {
        "bit": "BiT",
        "convnext": "ConvNeXt",
        "convnextv2": "ConvNeXtV2",
        "efficientnet": "EfficientNet",
        "mobilenet_v1": "MobileNetV1",
        "mobilenet_v2": "MobileNetV2",
        "regnet": "RegNet",
        "resnet": "ResNet",
    },
    "hybrid": {
        "cvt": "CvT",
        "levit": "LeViT",
        "mobilevit": "MobileViT",
        "mobilevitv2": "MobileViTV2",
        "segformer": "SegFormer",
        "swiftformer": "SwiftFormer",
    },
    "other": {"poolformer": "PoolFormer"},
}
# Not here: deberta-v2, whose largest checkpoints add a convolution and which DeBERTaV3 shares.
_TEXT: dict[Mixer, dict[str, str]] = {
    "attention": {
        "albert": "ALBERT",
        "bert": "BERT",
        "big_bird": "BigBird",
        "camembert": "CamemBERT",
        "deberta": "DeBERTa",
        "distilbert": "DistilBERT",
        "electra": "ELECTRA",
        "gpt2": "GPT-2",
        "longformer": "Longformer",
        "mobilebert": "MobileBERT",
        "modernbert": "ModernBERT",
        "mpnet": "MPNet",
        "roberta": "RoBERTa",
        "roformer": "RoFormer",
        "xlm-roberta": "XLM-RoBERTa",
        "xlnet": "XLNet",
    },
    "hybrid": {"convbert": "ConvBERT", "squeezebert": "SqueezeBERT"},
    "other": {"fnet": "FNet"},
}
_OF_MODALITY: dict[Modality, dict[Mixer, dict[str, str]]] = {"image": _IMAGE, "text": _TEXT}

ARCHITECTURES: dict[str, Architecture] = {
    model_type: Architecture(modality, mixer, family)
    for modality, mixers in _OF_MODALITY.items()
    for mixer, families in mixers.items()
    for model_type, family in families.items()
}
"""Only types of which modality, mixer and family are sure; of others a person must say them."""
