"""Opens a SentencePiece model, with checks: whose ids it has, `lmx.text` and `lmx.foreign_pieces` say."""

import sentencepiece


def open_pieces(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Returns what splits texts by a serialised SentencePiece model.

    Raises:
        ValueError: these bytes are no such model, or some of its pieces are no text.
    """
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        processor.id_to_piece(list(range(processor.vocab_size())))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"model must be a SentencePiece model, got {len(model)} bytes that are none.") from error
    return processor
