"""How files of texts with labels are read, as one record: what an experiment's config and its test set can choose."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lmx.data.cache import Cache
from lmx.data.encoded import keep_labelled
from lmx.data.labelled import Examples
from lmx.data.labelled_files import Fields, Form, read_labelled
from lmx.differences import SAME
from lmx.errors import InputError

Same = Literal["same"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read; `lmx.data.labelled_files.read_labelled` says more.

    Attributes:
        text_columns: the column of texts, or the two of pairs; `title+description` joins columns. None takes `text`,
            or the only one beside the label.
        joiner: text between joined columns.
        label_column: the column of labels.
        label_separator: text between the labels of one text; None if each text has one label.
        columns: names of a table's columns, for tables whose first row is data.
        form: form of files whose ending does not tell it; text has a label, a space and a text on each line.
        delimiter: text between the fields of a table; None for a comma in .csv and a tab in .tsv.
        quoting: whether quotes enclose fields of a table; None for yes in .csv and no in .tsv.
        encoding: encoding of the files.
        field_limit: most characters of a table's field; None for 16,777,216.
        label_names: names of the classes, in their order, for files with numbers.
        first_label: number of the first class in label_names.
    """

    text_columns: tuple[str, ...] | None = None
    joiner: str = " "
    label_column: str = "label"
    label_separator: str | None = None
    columns: tuple[str, ...] | None = None
    form: Form | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf-8"
    field_limit: int | None = None
    label_names: tuple[str, ...] | None = None
    first_label: int = 0

    def changed_by(self, changes: "ReadingChanges") -> "Reading":
        """Returns this with what the changes say."""
        return replace(self, **{name: value for name, value in vars(changes).items() if value != SAME})

    def read(self, location: str, *, labelled: bool = True, cache: Cache | None = None) -> Examples:
        """Reads texts, once where there is a cache; numbers of classes become their names.

        Raises:
            FileNotFoundError: a file or dataset is not there.
            ValueError: the data is not what this says; names the file and the line.
        """
        options: dict[str, Any] = {each.name: getattr(self, each.name) for each in dataclasses.fields(Fields)}
        if not labelled:
            options["label_column"] = None
        fields = Fields(**options)
        found = read_labelled(location, fields) if cache is None else keep_labelled(location, fields, cache=cache)
        return self._named(found)

    def _named(self, examples: Examples) -> Examples:
        """Returns the texts with the names of their classes."""
        if self.label_names is None or examples.labels is None:
            return examples
        names = {str(number): name for number, name in enumerate(self.label_names, start=self.first_label)}
        for index, label in enumerate(examples.labels):
            for one in (label,) if isinstance(label, str) else label:
                if one not in names:
                    raise InputError(
                        f"{examples.place(index)} must have a label from {self.first_label} to "
                        f"{self.first_label + len(names) - 1}, which label_names names, got {one!r:.60}. "
                        "Where labels are names already, say --label-names None."
                    )
        named = [
            names[label] if isinstance(label, str) else tuple(names[one] for one in label) for label in examples.labels
        ]
        return replace(examples, labels=named)


@dataclass(frozen=True, kw_only=True)
class ReadingChanges:
    """How some files are read otherwise than all: the fields of a `Reading`; one that is "same" changes nothing.

    Attributes:
        text_columns: the column of texts, or the two of pairs; `title+description` joins columns. None takes `text`,
            or the only one beside the label.
        joiner: text between joined columns.
        label_column: the column of labels.
        label_separator: text between the labels of one text; None if each text has one label.
        columns: names of a table's columns; None for those of its first row.
        form: form of files whose ending does not tell it; None where it does.
        delimiter: text between the fields of a table; None for a comma in .csv and a tab in .tsv.
        quoting: whether quotes enclose fields of a table; None for yes in .csv and no in .tsv.
        encoding: encoding of the files.
        field_limit: most characters of a table's field; None for 16,777,216.
        label_names: names of the classes, in their order, for files with numbers; None where labels are names.
        first_label: number of the first class in label_names.
    """

    text_columns: tuple[str, ...] | Same | None = SAME
    joiner: str | Same = SAME
    label_column: str | Same = SAME
    label_separator: str | Same | None = SAME
    columns: tuple[str, ...] | Same | None = SAME
    form: Form | Same | None = SAME
    delimiter: str | Same | None = SAME
    quoting: bool | Same | None = SAME
    encoding: str | Same = SAME
    field_limit: int | Same | None = SAME
    label_names: tuple[str, ...] | Same | None = SAME
    first_label: int | Same = SAME


def changes_as_saved_now(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes that a config.json holds, each field of `ReadingChanges`.

    Earlier versions saved a whole `Reading`, in which a usual value meant no change.
    """
    names = [each.name for each in dataclasses.fields(ReadingChanges)]
    if SAME in saved.values():
        return {name: saved.get(name, SAME) for name in names}
    usual = vars(Reading())
    return {name: SAME if (value := saved.get(name, usual[name])) == usual[name] else value for name in names}
