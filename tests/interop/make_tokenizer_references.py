"""Writes tests/interop/data/tokenizers: small tokenizers of each kind, and what transformers makes of hard lines.

Run by hand, where transformers 4.57, tokenizers and sentencepiece are installed: `PYTHONPATH=. python
tests/interop/make_tokenizer_references.py`. The text they are trained on is lmx's phrasebook and the Python library's
own. Each folder is as a model's on the hub, but for the weights; `expected.json` has the ids of each line of
`lines.json` alone and between special tokens, those of pairs, and the decoded text.
"""

import inspect
import io
import json
import os
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import sentencepiece
import transformers

import tokenizers
from lmx.data.embedded import phrasebook
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).parent / "data" / "tokenizers"
LINES = json.loads((DATA / "lines.json").read_text(encoding="utf-8"))
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BERT = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
ROBERTA = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}


def main() -> None:
    for folder in DATA.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    texts = training_texts()
    word_pieces(texts)
    byte_pairs(texts)
    sentence_pieces(texts)
    piece_tables(texts)
    for folder in sorted(path for path in DATA.iterdir() if path.is_dir()):
        write_json(folder / "expected.json", expected(folder))
        large = [path.name for path in folder.iterdir() if path.stat().st_size > 60_000]
        assert not large, f"{folder}: {large}"
    print(f"written by transformers {transformers.__version__}", file=sys.stderr)


def training_texts() -> list[str]:
    """English and German sentences, and documentation."""
    pairs = [text for phrase in phrasebook("train")[:600] for text in (phrase.source, phrase.target)]
    return pairs + [line.strip() for module in (inspect, json, shutil, tempfile) for line in
                    inspect.getsource(module).splitlines() if line.strip()][:1200]  # fmt: skip


def word_pieces(texts: list[str]) -> None:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    train(
        made, trainers.WordPieceTrainer(vocab_size=500, special_tokens=list(BERT.values()), show_progress=False), texts
    )
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ends
    )
    made.enable_padding(length=16)
    made.enable_truncation(16)
    folder = begin("bert", "bert", pad_token_id=0, vocab_size=made.get_vocab_size() + 1)
    made.save(str(folder / "tokenizer.json"), pretty=False)
    settings = named(BERT) | {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "clean_up_tokenization_spaces": True,
    }
    more = {
        "content": "<added>",
        "special": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": True,
    }
    write_json(
        folder / "tokenizer_config.json", settings | {"added_tokens_decoder": {str(made.get_vocab_size()): more}}
    )
    write_json(folder / "special_tokens_map.json", named(BERT))

    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    train(
        made, trainers.WordPieceTrainer(vocab_size=500, special_tokens=list(BERT.values()), show_progress=False), texts
    )
    folder = begin("bert-cased-vocab-txt", "bert", pad_token_id=0, vocab_size=made.get_vocab_size())
    made.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "clean_up_tokenization_spaces": False})


def byte_pairs(texts: list[str]) -> None:
    """Byte-level vocabularies: GPT-2, RoBERTa, BART, Llama 3 and Qwen 2."""
    made = byte_level(texts, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    folder = begin("gpt2", "gpt2", bos_token_id=0, eos_token_id=0, vocab_size=made.get_vocab_size())
    made.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024})
    folder = begin("gpt2-merges", "gpt2", bos_token_id=0, eos_token_id=0, vocab_size=made.get_vocab_size())
    made.model.save(str(folder))

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = byte_level(texts, pre_tokenizers.ByteLevel(add_prefix_space=False), special)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "vocab_size": made.get_vocab_size()}
    folder = begin("roberta-merges", "roberta", **ids)
    made.model.save(str(folder))
    # Out of the folder with vocab.json and merges.txt: the pipeline of Hugging Face's own class.
    whole = transformers.RobertaTokenizerFast.from_pretrained(folder)
    folder = begin("roberta", "roberta", **ids)
    whole.save_pretrained(folder)
    folder = begin("bart", "bart", is_encoder_decoder=True, decoder_start_token_id=2, **ids)
    transformers.BartTokenizerFast.from_pretrained(DATA / "roberta-merges").save_pretrained(folder)
    for name in ("roberta", "bart"):
        compact(DATA / name)

    splits = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made = byte_level(texts, splits, [])
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = True
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"])
    begins = [("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))]
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=begins,
            ),
        ]
    )
    first = made.token_to_id("<|begin_of_text|>")
    folder = begin("llama3", "llama", bos_token_id=first, eos_token_id=[first + 1, first + 2], vocab_size=first + 8)
    made.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": True}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})

    folder = begin("qwen2-merges", "qwen2", bos_token_id=None, eos_token_id=0)
    made = byte_level(texts, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    made.model.save(str(folder))
    size = made.get_vocab_size()
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    added = {str(size + place): plain | {"content": text} for place, text in enumerate(("<|im_start|>", "<|im_end|>"))}
    settings = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    settings |= {"added_tokens_decoder": {"0": plain | {"content": "<|endoftext|>"}} | added}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "Qwen2Tokenizer"})
    write_json(folder / "generation_config.json", {"eos_token_id": [size + 1, 0], "pad_token_id": 0})


def byte_level(texts: list[str], splits: Any, special: list[str]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = splits, decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    train(made, trainer, texts)
    return made


def sentence_pieces(texts: list[str]) -> None:
    """Pieces in the manner of SentencePiece: T5 and Llama, as a tokenizer.json."""
    model = trained_pieces(texts, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    with tempfile.TemporaryDirectory() as kept:
        spiece = Path(kept) / "spiece.model"
        spiece.write_bytes(model)
        made = transformers.T5TokenizerFast(str(spiece), extra_ids=20, add_prefix_space=True)
    size = len(made) + 4
    folder = begin(
        "t5", "t5", is_encoder_decoder=True, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, vocab_size=size
    )
    made.save_pretrained(folder)
    compact(folder)

    identity = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    ids = {"pad_id": -1, "bos_id": 1, "eos_id": 2, "unk_id": 0}
    model = trained_pieces(texts, "bpe", byte_fallback=True, vocab_size=640, **ids, **identity)
    with tempfile.TemporaryDirectory() as kept:
        file = Path(kept) / "tokenizer.model"
        file.write_bytes(model)
        made = transformers.LlamaTokenizerFast(str(file), add_prefix_space=True)
    folder = begin("llama", "llama", bos_token_id=1, eos_token_id=2, pad_token_id=-1, vocab_size=len(made))
    made.save_pretrained(folder)
    compact(folder)


def piece_tables(texts: list[str]) -> None:
    """SentencePiece files with the ids of their types of models, as the classes in Python read them."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    for name, legacy in (("t5-pieces", None), ("t5-pieces-new", False)):
        folder = begin(name, "t5", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, vocab_size=320)
        (folder / "spiece.model").write_bytes(trained_pieces(texts, "unigram", vocab_size=300, **ids))
        write_json(folder / "tokenizer_config.json", {"extra_ids": 15} | ({} if legacy is None else {"legacy": False}))

    ids = {"pad_id": -1, "bos_id": 1, "eos_id": 2, "unk_id": 0}
    identity = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    model = trained_pieces(texts, "bpe", byte_fallback=True, vocab_size=640, **ids, **identity)
    for name, legacy in (("llama-pieces", True), ("llama-pieces-new", False)):
        folder = begin(name, "llama", bos_token_id=1, eos_token_id=2, vocab_size=640)
        (folder / "tokenizer.model").write_bytes(model)
        write_json(folder / "tokenizer_config.json", {"legacy": legacy, "tokenizer_class": "LlamaTokenizer"})

    model = trained_pieces(texts, "unigram", **ids)
    folder = begin("xlm-roberta-pieces", "xlm-roberta", bos_token_id=0, pad_token_id=1, eos_token_id=2, vocab_size=402)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    start = {"is_encoder_decoder": True, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0}
    for name, kind, made_by, start_id in (
        ("nllb-pieces", "m2m_100", transformers.NllbTokenizer, 2),
        ("mbart-pieces", "mbart", transformers.MBartTokenizer, None),
        ("mbart50-pieces", "mbart", transformers.MBart50Tokenizer, 2),
    ):
        with tempfile.TemporaryDirectory() as kept:
            file = Path(kept) / "sentencepiece.bpe.model"
            file.write_bytes(model)
            codes = {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}
            made = made_by(str(file), **(codes if kind == "m2m_100" else {"src_lang": "en_XX", "tgt_lang": "de_DE"}))
            target = made.convert_tokens_to_ids(made.tgt_lang)
            decoder = {"decoder_start_token_id": target if start_id is None else start_id}
            folder = begin(name, kind, vocab_size=len(made), **start, **decoder)
            made.save_pretrained(folder)
        for useless in ("tokenizer.json", "added_tokens.json", "special_tokens_map.json"):
            (folder / useless).unlink(missing_ok=True)

    folder = begin("m2m100-pieces", "m2m_100", **start, decoder_start_token_id=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    plain = [processor.id_to_piece(index) for index in range(3, processor.vocab_size())]
    table = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *reversed(plain)])}
    with tempfile.TemporaryDirectory() as kept:
        vocabulary, file = Path(kept) / "vocab.json", Path(kept) / "sentencepiece.bpe.model"
        write_json(vocabulary, table)
        file.write_bytes(model)
        made = transformers.M2M100Tokenizer(str(vocabulary), str(file), src_lang="en", tgt_lang="de")
        made.save_pretrained(folder)
        languages = sorted(made.lang_token_to_id, key=made.lang_token_to_id.__getitem__)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        settings.pop(name, None)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": languages})  # as on the hub

    source, target = (trained_pieces(texts[begin::2], "unigram", vocab_size=300, **ids) for begin in (0, 1))
    folder = begin("marian", "marian", is_encoder_decoder=True, eos_token_id=0, pad_token_id=0, vocab_size=0)
    pieces = ["</s>", "<unk>", ">>deu<<"]
    for side, model in (("source", source), ("target", target)):
        (folder / f"{side}.spm").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces += [processor.id_to_piece(index) for index in range(3, processor.vocab_size())]
    pieces = [*list(dict.fromkeys(pieces))[:-3], "<pad>"]  # some pieces of the target have no id
    write_json(folder / "vocab.json", {piece: index for index, piece in enumerate(pieces)})
    last = len(pieces) - 1
    ends = {"eos_token_id": 0, "pad_token_id": last, "decoder_start_token_id": last, "bos_token_id": 0}
    fields = {"model_type": "marian", "is_encoder_decoder": True, "vocab_size": last + 1}
    write_json(folder / "config.json", fields | ends)
    write_json(folder / "tokenizer_config.json", {"source_lang": "eng", "target_lang": "deu"})


def trained_pieces(texts: list[str], kind: str, **options: Any) -> bytes:
    """A SentencePiece model whose rules of normalisation are few: those of the characters in the hard lines."""
    rules = {}
    for line in LINES:
        for begin in range(len(line)):
            for end in (begin + 1, begin + 2):
                part = line[begin:end]
                composed = unicodedata.normalize("NFKC", part)
                if part in "\t\n\r\u2028\u200b":
                    composed = " "
                if composed != part and "\x00" not in part + composed:
                    rules[part] = composed
    with tempfile.TemporaryDirectory() as kept:
        table = Path(kept) / "rules.tsv"
        points = [
            " ".join(f"{ord(c):X}" for c in part) + "\t" + " ".join(f"{ord(c):X}" for c in composed)
            for part, composed in rules.items()
        ]
        table.write_text("".join(f"{point}\n" for point in points))
        if "normalization_rule_name" not in options:
            options["normalization_rule_tsv"] = table.name
        written = io.BytesIO()
        os.chdir(kept)  # the name of the file stays in the model
        options = {"vocab_size": 400, "num_threads": 4, "minloglevel": 2} | options
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=written, model_type=kind, pad_piece="<pad>", **options
        )
    return written.getvalue()


def train(made: tokenizers.Tokenizer, trainer: Any, texts: list[str]) -> None:
    made.train_from_iterator(texts, trainer)


def begin(name: str, model_type: str, **fields: Any) -> Path:
    folder = DATA / name
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": model_type, **fields})
    return folder


def compact(folder: Path) -> None:
    """Leaves the tokenizer.json alone, without its white space."""
    for file in ("vocab.json", "merges.txt", "spiece.model", "tokenizer.model"):
        (folder / file).unlink(missing_ok=True)
    write_json(folder / "tokenizer.json", json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("add_prefix_space", None)  # it would ask for the slow form
    write_json(folder / "tokenizer_config.json", settings)


def named(tokens: dict[str, str]) -> dict[str, str]:
    return {f"{role}_token": text for role, text in tokens.items()}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=True) + "\n", encoding="utf-8")


def expected(folder: Path) -> dict[str, Any]:
    """What transformers says of the lines."""
    in_python = "pieces" in folder.name or folder.name == "marian"
    theirs = transformers.AutoTokenizer.from_pretrained(folder, use_fast=not in_python)
    more = {}
    if folder.name == "marian" or hasattr(theirs, "src_lang"):
        texts = LINES[3:6]
        more["target"] = theirs(text_target=texts)["input_ids"]
        more["target_texts"] = theirs.batch_decode(more["target"], skip_special_tokens=True)
    alone = [theirs.encode(line, add_special_tokens=False) for line in LINES]
    first = LINES[3:6]
    return {
        "transformers": transformers.__version__,
        "class": type(theirs).__name__,
        "ids": alone,
        "texts": [
            theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=cleans(theirs)) for ids in alone
        ],
        "single": [theirs.encode(line) for line in first],
        **more,
        "pair": theirs(*first[:2])["input_ids"],
        "types": theirs(*first[:2], return_token_type_ids=True).get("token_type_ids"),
    }


def cleans(theirs: Any) -> bool:
    """Later versions do not clean the text of byte pairs, whatever the settings say."""
    kind = json.loads(theirs.backend_tokenizer.to_str())["model"]["type"] if theirs.is_fast else "Unigram"
    return theirs.clean_up_tokenization_spaces and kind != "BPE"


if __name__ == "__main__":
    main()
