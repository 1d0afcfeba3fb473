"""GGUF files, written here by the package `gguf`: read in parts, with their vocabularies; and what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from lmx.errors import InputError
from lmx.interop.convert import open_model
from lmx.interop.gguf import read_gguf
from lmx.interop.gguf_tokenizer import LLAMA_3, WORDS
from lmx.interop.tokenizer_json import QWEN_WORDS

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

WIDTH, HIDDEN, HEADS, KEYS, LAYERS, HEAD = 64, 96, 4, 2, 2, 16
TOKENS = ["<unk>", "<s>", "</s>", "<|user|>", "Ġ", "a", "b", "1", "2", "ab", "Ġab", "12"]
MERGES = ["a b", "Ġ ab", "1 2"]


PIECES = {
    "tokenizer_model": "llama", "tokenizer_pre": None, "token_merges": None, "token_scores": [0.0] * len(TOKENS),
}  # fmt: skip


def write(path: Path, *, kind=gguf.GGMLQuantizationType.F32, changes=None, arrays=None) -> dict[str, np.ndarray]:
    """Writes a model of Llama's form with random numbers, and returns its arrays as the file has them."""
    draw = np.random.default_rng(2)
    matrix = lambda *shape: draw.normal(0, 1, shape).astype(np.float32)  # noqa: E731
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        of_layer = {
            "attn_norm": (WIDTH,), "attn_q": (HEADS * HEAD, WIDTH), "attn_k": (KEYS * HEAD, WIDTH),
            "attn_v": (KEYS * HEAD, WIDTH), "attn_output": (WIDTH, HEADS * HEAD), "ffn_norm": (WIDTH,),
            "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    found = {f"{name}.weight": matrix(*shape) for name, shape in shapes.items()} | (arrays or {})
    writer = gguf.GGUFWriter(str(path), (changes or {}).pop("architecture", "llama"))
    said = {
        "block_count": LAYERS, "context_length": 32, "embedding_length": WIDTH, "feed_forward_length": HIDDEN,
        "head_count": HEADS, "head_count_kv": KEYS, "layer_norm_rms_eps": 1e-5, "rope_freq_base": 5000.0,
        "rope_dimension_count": HEAD, "tokenizer_model": "gpt2", "tokenizer_pre": "smollm", "token_list": TOKENS,
        "token_types": [2, 3, 3, 3, *[1] * (len(TOKENS) - 4)], "token_merges": MERGES, "bos_token_id": 1,
        "eos_token_id": 2, "unk_token_id": 0,
    } | (changes or {})  # fmt: skip
    for name, value in said.items():
        if "." in name:  # a field of another type than it has
            writer.add_string(name, value)
        elif value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, array in found.items():
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
            found[name] = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_arrays_are_dequantised_by_parts_and_heads_turn_in_halves(tmp_path, kind):
    arrays = write(tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType[kind])
    read = read_gguf(tmp_path / "model.gguf")
    query, value = (f"stack.blocks.attention.{name}.weight" for name in ("query", "value"))
    theirs = arrays["blk.1.attn_q.weight"].reshape(HEADS, HEAD // 2, 2, WIDTH)  # neighbours turn together
    expected = theirs.swapaxes(1, 2).reshape(HEADS, HEAD, WIDTH).transpose(2, 0, 1)
    np.testing.assert_array_equal(read.file.get_tensor(query)[1], expected)
    np.testing.assert_array_equal(read.file.get_slice(query)[1:2, 3:7, 1:3, 5:9][0], expected[3:7, 1:3, 5:9])
    expected = arrays["blk.0.attn_v.weight"].T.reshape(WIDTH, KEYS, HEAD)
    np.testing.assert_array_equal(read.file.get_tensor(value)[0], expected)
    words = read.file.get_slice("embedding.table")[5:20]
    np.testing.assert_array_equal(words[: len(TOKENS) - 5], arrays["token_embd.weight"][5:])
    assert not words[len(TOKENS) - 5 :].any()


def test_metadata_and_vocabulary_become_ours(tmp_path):
    write(tmp_path / "model.gguf")
    read = open_model(tmp_path / "model.gguf")
    model, tokenizer = read.model, read.tokenizers["tokenizer"]
    assert (model.num_kv_heads, model.rotary_base, model.norm_epsilon, model.tied_embeddings) == (
        KEYS,
        5000,
        1e-5,
        True,
    )
    assert (model.vocab_size, model.max_length, model.pad_id, read.facts) == (len(TOKENS), 32, 2, {})
    assert tokenizer.encode("ab ab<|user|>12") == [9, 10, 3, 7, 8]  # each digit is a word there
    assert tokenizer.decode([9, 10, 5]) == "ab aba"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)


@pytest.mark.parametrize(
    ("name", "number", "is_whole", "composes"),
    [
        ("default", [11], False, False),
        ("gpt-2", [11], False, False),
        ("smollm", [7, 8], False, False),
        ("llama-bpe", [11], True, False),
        ("llama3", [11], True, False),
        ("qwen2", [7, 8], False, True),
    ],
)
def test_each_kind_of_byte_pairs_splits_words_and_numbers_in_its_way(name, number, is_whole, composes, tmp_path):
    """The words "bba" and "á" are in the list; no merges lead to the first, and the second is two bytes."""
    changes = {
        "tokenizer_pre": name, "token_list": [*TOKENS, "bba", "Ã", "¡"], "token_types": [2, 3, 3, 3, *[1] * 11],
    }  # fmt: skip
    write(tmp_path / "model.gguf", changes=changes, arrays={"token_embd.weight": np.zeros((15, WIDTH), np.float32)})
    tokenizer = read_gguf(tmp_path / "model.gguf").tokenizers["tokenizer"]
    assert tokenizer.encode("12") == number
    assert tokenizer.encode("bba") == ([12] if is_whole else [6, 6, 5])
    assert tokenizer.encode("á") == [13, 14]
    assert (tokenizer.encode("a\u0301") == [13, 14]) == composes


@pytest.mark.parametrize(
    ("name", "said", "facts"),
    [
        ("smollm", None, {}),
        ("qwen2", None, {}),
        ("smollm", True, {"first_id": 1}),
        ("llama-bpe", None, {"first_id": 1}),
        ("llama3", None, {"first_id": 1}),
        ("llama-v3", None, {"first_id": 1}),
        ("llama-bpe", False, {}),
    ],
)
def test_prompts_begin_as_they_do_in_llama_cpp(name: str, said: bool | None, facts: dict[str, int], tmp_path: Path):
    """Where a file does not say it, the beginning stands before texts of Llama 3, not before those of other pairs."""
    write(tmp_path / "model.gguf", changes={"tokenizer_pre": name, "add_bos_token": said})
    assert read_gguf(tmp_path / "model.gguf").facts == facts


@pytest.mark.parametrize(
    ("turn", "pad", "facts", "padding"), [(3, 0, {"end_ids": [3]}, 0), (2, None, {}, 2), (99, None, {}, 2)]
)
def test_a_turn_of_a_chat_ends_a_text_too(turn: int, pad: int | None, facts: dict, padding: int, tmp_path: Path):
    write(tmp_path / "model.gguf", changes={"eot_token_id": turn, "pad_token_id": pad, "bos_token_id": None})
    read = read_gguf(tmp_path / "model.gguf")
    assert (read.facts, read.model.pad_id) == (facts, padding)
    assert (read.tokenizers["tokenizer"].bos_id, read.tokenizers["tokenizer"].pad_id) == (2, padding)
    assert read.settings == {"max_length": 32, "sampling": {"temperature": 0.0}}


def test_what_a_file_says_of_positions_and_tables_is_read(tmp_path: Path):
    changes = {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": 4.0, "sliding_window": 5}
    output = np.ones((len(TOKENS), WIDTH), np.float32)
    write(tmp_path / "model.gguf", changes=changes, arrays={"output.weight": output})
    read = read_gguf(tmp_path / "model.gguf")
    assert (read.model.rotary_scaling, read.model.window, read.model.tied_embeddings) == ((4.0,), 5, False)
    np.testing.assert_array_equal(read.file.get_tensor("output_embedding.table")[: len(TOKENS)], output)
    assert (read.model.width_of_head, read.model.num_layers, read.model.feedforward_width) == (HEAD, LAYERS, HIDDEN)


def test_qwen_has_its_heads_in_halves_already_and_biases_or_norms(tmp_path: Path):
    draw = np.random.default_rng(3)
    biases = {
        f"blk.{layer}.attn_{name}.bias": draw.normal(size=heads * HEAD).astype(np.float32)
        for layer in range(LAYERS)
        for name, heads in (("q", HEADS), ("k", KEYS), ("v", KEYS))
    }
    arrays = write(tmp_path / "qwen2.gguf", changes={"architecture": "qwen2"}, arrays=biases)
    read = read_gguf(tmp_path / "qwen2.gguf")
    assert (read.model.qkv_bias, read.model.qk_norm, read.family) == (True, False, "decoder")
    attention = "stack.blocks.attention"
    for name, theirs, heads in (("query", "q", HEADS), ("key", "k", KEYS), ("value", "v", KEYS)):
        weight = arrays[f"blk.1.attn_{theirs}.weight"].T.reshape(WIDTH, heads, HEAD)
        np.testing.assert_array_equal(read.file.get_tensor(f"{attention}.{name}.weight")[1], weight)
        bias = biases[f"blk.1.attn_{theirs}.bias"].reshape(heads, HEAD)
        np.testing.assert_array_equal(read.file.get_tensor(f"{attention}.{name}.bias")[1], bias)
    norms = {
        f"blk.{layer}.attn_{name}_norm.weight": draw.normal(size=HEAD).astype(np.float32)
        for layer in range(LAYERS)
        for name in "qk"
    }
    write(tmp_path / "qwen3.gguf", changes={"architecture": "qwen3", "key_length": HEAD}, arrays=norms)
    read = read_gguf(tmp_path / "qwen3.gguf")
    assert (read.model.qkv_bias, read.model.qk_norm) == (False, True)
    for name, theirs in (("query", "q"), ("key", "k")):
        found = read.file.get_tensor(f"{attention}.{name}_norm.scale")[0]
        np.testing.assert_array_equal(found, norms[f"blk.0.attn_{theirs}_norm.weight"])


def test_added_tokens_are_found_in_a_text_and_are_no_control(tmp_path: Path):
    write(tmp_path / "model.gguf", changes={"token_types": [2, 3, 3, 4, *[1] * (len(TOKENS) - 4)]})
    tokenizer = read_gguf(tmp_path / "model.gguf").tokenizers["tokenizer"]
    assert tokenizer.encode("a<|user|>") == [5, 3]
    assert [token["special"] for token in tokenizer.content["added_tokens"]] == [True, True, False]
    assert WORDS["qwen2"] == QWEN_WORDS
    assert {WORDS[name] for name in LLAMA_3} == {QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}


def test_pieces_need_no_space_before_a_text(tmp_path: Path):
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab", "c", "d", "e", "f"]
    scores = [0.0] * 6 + [-1.0, -2.0] + [0.0] * 4
    changes = PIECES | {"token_list": tokens, "token_scores": scores, "add_space_prefix": False}
    changes["token_types"] = [2, 3, 3, *[1] * 9]
    write(tmp_path / "model.gguf", changes=changes)
    tokenizer = read_gguf(tmp_path / "model.gguf").tokenizers["tokenizer"]
    assert (tokenizer.encode("ab"), tokenizer.encode(" ab"), tokenizer.encode("xy")) == ([6], [7], [0])
    assert tokenizer.decode([7, 6]) == " abab"


def test_pieces_of_llama_2_merge_by_their_scores(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab", "ba", "<0x0A>", "<0xC3>", "<0xBC>"]
    scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, -0.5, 0.0, 0.0, 0.0]
    changes = {
        "tokenizer_model": "llama", "tokenizer_pre": None, "token_merges": None, "token_list": tokens,
        "token_scores": scores, "token_types": [2, 3, 3, *[1] * 6, *[6] * 3],
    }  # fmt: skip
    write(tmp_path / "model.gguf", changes=changes)
    read = read_gguf(tmp_path / "model.gguf")
    tokenizer = read.tokenizers["tokenizer"]
    assert tokenizer.encode("ab") == [7]
    assert tokenizer.encode("aba") == [3, 4, 8]  # "ba" scores better than "ab"
    assert tokenizer.encode("ü\n") == [3, 10, 11, 9]
    assert tokenizer.decode(tokenizer.encode("ab ü")) == "ab ü"
    assert read.facts == {"first_id": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mamba"}, r"must hold a model of llama, qwen2, qwen3, got mamba\.$"),
        ({"tokenizer_pre": "tekken"}, r"must split words as one of default, .*, got tokenizer\.ggml\.pre=tekken\.$"),
        ({"tokenizer_model": "bert"}, r"must have a tokenizer of gpt2 or llama, got bert\.$"),
        ({"eos_token_id": None}, r"must say what ends a text, got no tokenizer\.ggml\.eos_token_id\.$"),
        ({"rope_dimension_count": 8}, r"must turn whole heads of 16 features, got llama\.rope\.dimension_count=8\.$"),
        ({"feed_forward_length": None}, r"must say llama\.feed_forward_length, got nothing\.$"),
        ({"head_count_kv": [2, 2]}, r"must have one size in llama\.attention\.head_count_kv, got \[2, 2\]\.$"),
        ({"feed_forward_length": [96, 96]}, r"must have one size in llama\.feed_forward_length, got \[96, 96\]\.$"),
        ({"head_count": 0}, r"must have one size in llama\.attention\.head_count, got 0\.$"),
        (
            {"rope_scaling_type": gguf.RopeScalingType.YARN},
            r"stretch rotary positions by a factor or not .* got yarn\.$",
        ),
        ({"expert_count": 4}, r"must have one feed-forward network a layer, got 4 experts\.$"),
        (PIECES | {"token_scores": [0.0] * 5}, r"must have a score of each piece in tokenizer\.ggml\.scores, got none"),
        (
            {"llama.attention.sliding_window": "x"},
            r"must have one number in llama\.attention\.sliding_window, got 'x'\.$",
        ),
        (
            {"rope_freq_base": None, "llama.rope.freq_base": "x"},
            r"must have one number in llama\.rope\.freq_base, got 'x'\.$",
        ),
        (
            {"layer_norm_rms_eps": None, "llama.attention.layer_norm_rms_epsilon": "x"},
            r"must have one number in llama\.attention\.layer_norm_rms_epsilon, got 'x'\.$",
        ),
        (
            {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "llama.rope.scaling.factor": "x"},
            r"must have one number in llama\.rope\.scaling\.factor, got 'x'\.$",
        ),
        ({"token_merges": [1, 2]}, r"must have a list of texts as tokenizer\.ggml\.merges, got \[1, 2\]\.$"),
        ({"token_types": ["a"]}, r"must have a list of numbers as tokenizer\.ggml\.token_type, got \['a'\]\.$"),
        (PIECES | {"token_scores": ["a"]}, r"must have a list of numbers as tokenizer\.ggml\.scores, got \['a'\]\.$"),
        (PIECES | {"unk_token_id": 12}, r"must have one of its pieces as the unknown one, got 12\.$"),
        ({"head_count_kv": 4}, r"must have the arrays that its config says, got"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, changes, message):
    write(tmp_path / "model.gguf", changes=changes)
    with pytest.raises(InputError, match=message):
        read_gguf(tmp_path / "model.gguf")


def test_arrays_without_a_place_and_files_that_are_cut_are_errors(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, arrays={"blk.0.ffn_gate_inp.weight": np.ones((4, WIDTH), np.float32)})
    with pytest.raises(InputError, match=r"must have arrays of Llama's form alone, got blk\.0\.ffn_gate_inp\.weight"):
        read_gguf(path)
    write(path, arrays={"rope_freqs.weight": np.ones(HEAD // 2, np.float32)})
    with pytest.raises(InputError, match=r"must have rotary positions that are not stretched, got rope_freqs\.weight"):
        read_gguf(path)
    write(path)
    content = path.read_bytes()
    for length in (0, 3, 10, 200, len(content) // 2, len(content) - 300):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"must be a whole GGUF file, got one that cannot be read"):
            read_gguf(path)
