"""What the comparison of stories makes of weights in llama2.c's format, and that program's own arithmetic in NumPy."""

import importlib.util
import struct
from pathlib import Path

import numpy as np

from lmx.interop.llama2c import read_llama2c

ROOT = Path(__file__).parents[1]
WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, WORDS, LENGTH = 24, 20, 2, 6, 3, 40, 12
HEAD = WIDTH // HEADS


def stories():
    spec = importlib.util.spec_from_file_location("stories", ROOT / "benchmarks" / "stories.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stories = stories()


def write(path: Path, *, tied: bool) -> dict[str, np.ndarray]:
    """Writes a file as that program's export has it, and returns its arrays."""
    generator = np.random.default_rng(3)
    draw = lambda *shape: generator.normal(0, 0.4, shape).astype("<f4")  # noqa: E731
    kv = KV_HEADS * HEAD
    arrays = {
        "words": draw(WORDS, WIDTH),
        "rms_attention": 1 + draw(LAYERS, WIDTH),
        "wq": draw(LAYERS, WIDTH, WIDTH),
        "wk": draw(LAYERS, kv, WIDTH),
        "wv": draw(LAYERS, kv, WIDTH),
        "wo": draw(LAYERS, WIDTH, WIDTH),
        "rms_ffn": 1 + draw(LAYERS, WIDTH),
        "w1": draw(LAYERS, HIDDEN, WIDTH),
        "w2": draw(LAYERS, WIDTH, HIDDEN),
        "w3": draw(LAYERS, HIDDEN, WIDTH),
        "rms_final": 1 + draw(WIDTH),
        "frequencies": draw(2, LENGTH, HEAD // 2),
    }
    arrays |= {} if tied else {"output": draw(WORDS, WIDTH)}
    header = struct.pack("<7i", WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, WORDS if tied else -WORDS, LENGTH)
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return arrays


def logits_of(arrays: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """One token after the other, as `forward` of run.c has it; neighbouring features turn together."""
    norm = lambda x, weight: weight * x / np.sqrt((x * x).mean() + 1e-5)  # noqa: E731
    keys, values = np.zeros((2, LAYERS, len(tokens), KV_HEADS, HEAD))
    found = []
    for place, token in enumerate(tokens):
        x = arrays["words"][token].astype(np.float64)
        for layer in range(LAYERS):
            y = norm(x, arrays["rms_attention"][layer])
            query, key = (arrays[name][layer] @ y for name in ("wq", "wk"))
            for vector in (query, key):
                for i in range(0, len(vector), 2):
                    angle = place / 10000 ** ((i % HEAD) / HEAD)
                    first, second = vector[i], vector[i + 1]
                    vector[i] = first * np.cos(angle) - second * np.sin(angle)
                    vector[i + 1] = first * np.sin(angle) + second * np.cos(angle)
            keys[layer, place] = key.reshape(KV_HEADS, HEAD)
            values[layer, place] = (arrays["wv"][layer] @ y).reshape(KV_HEADS, HEAD)
            heads = []
            for head, own in enumerate(query.reshape(HEADS, HEAD)):
                group = head * KV_HEADS // HEADS
                weights = np.exp(keys[layer, : place + 1, group] @ own / np.sqrt(HEAD))
                heads.append(weights / weights.sum() @ values[layer, : place + 1, group])
            x = x + arrays["wo"][layer] @ np.concatenate(heads)
            y = norm(x, arrays["rms_ffn"][layer])
            gate = arrays["w1"][layer] @ y
            x = x + arrays["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (arrays["w3"][layer] @ y))
        found.append(arrays.get("output", arrays["words"]) @ norm(x, arrays["rms_final"]))
    return np.stack(found)


def test_greedy_text_is_the_same_from_a_cache(tmp_path):
    arrays = write(tmp_path / "model.bin", tied=True)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"x{index}".encode() for index in range(WORDS - 3))]
    records = [struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces]
    (tmp_path / "pieces.bin").write_bytes(struct.pack("<i", 6) + b"".join(records))
    model = stories.network_of(read_llama2c(tmp_path / "model.bin", tmp_path / "pieces.bin"))
    anew, cached = (np.asarray(run(model, number=9)) for run in (stories.continued, stories.continued_from_cache))
    tokens = [stories.BOS]
    for _ in range(9):
        tokens.append(int(logits_of(arrays, np.array(tokens))[-1].argmax()))
    assert anew.tolist() == cached.tolist() == tokens[1:]
