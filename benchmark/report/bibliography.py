"""The works that a report cites, as keys in its text and as entries of its `references.bib`.

Everything known of a work stands in `works.bib`. A registry's `reference:` finds one by eprint, doi
or address, the source of a metric or map ("Guo et al. 2017") by authors and year. What is not there
is cited by what the registry says of it, or by its page on the hub.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.resources import files

from benchmark.markup import escape_inline, visible
from benchmark.report.latex import escape_latex

HUB = "https://huggingface.co"
_ENTRY = re.compile(r"^@(\w+)\{([^,\s]+),\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)
_ACCENT = re.compile(r"\{\\[^A-Za-z]?([A-Za-z])\}")
_SOURCE = re.compile(r"^(arxiv|doi):\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Work:
    """An entry of a BibTeX file.

    Attributes:
        key: by which it is cited.
        kind: its type, such as `article`.
        fields: name and value, in BibTeX's notation.
    """

    key: str
    kind: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return a field; empty where it has none."""
        return dict(self.fields).get(name, "")

    @property
    def label(self) -> str:
        """How a text names it: "Guo et al. 2017", "Hall 1992"; accents are left out."""
        names = [_ACCENT.sub(r"\1", name) for name in self.get("author").split(" and ")]
        surnames = [name.partition(",")[0].strip("{} ") for name in names]
        if len(surnames) > 2 or "others" in surnames:
            return f"{surnames[0]} et al. {self.get('year')}"
        return f"{' & '.join(surnames)} {self.get('year')}"

    def to_bibtex(self) -> str:
        """Return the entry."""
        lines = [f"  {name} = {{{value}}}," for name, value in self.fields]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}", ""])


def parse_bibtex(text: str) -> list[Work]:
    """Return the entries of a file that has one field a line, as `works.bib` and reports do."""
    return [
        Work(key, kind, tuple(_FIELD.findall(body))) for kind, key, body in _ENTRY.findall(text)
    ]


@functools.cache
def known_works() -> tuple[Work, ...]:
    """Return the works of `works.bib`."""
    return tuple(parse_bibtex((files("benchmark.report") / "works.bib").read_text("utf-8")))


@functools.cache
def _by_identity() -> dict[str, Work]:
    names = ("eprint", "doi", "url")
    found = {work.get(name).lower(): work for work in known_works() for name in names}
    return {name: work for name, work in found.items() if name}


@functools.cache
def _by_label() -> dict[str, Work]:
    """Return the works that authors and year tell apart."""
    counts = Counter(work.label for work in known_works())
    return {work.label: work for work in known_works() if counts[work.label] == 1}


@functools.cache
def _labels() -> re.Pattern[str]:
    found = "|".join(map(re.escape, sorted(_by_label(), key=len, reverse=True)))
    return re.compile(rf"\((?P<bare>{found})\)|(?P<free>{found})")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "work"


def _value(text: str) -> str:
    """Return plain text as a field's value: LaTeX, with round brackets for braces."""
    return escape_latex(text.translate(str.maketrans("{}", "()")))


def _address(url: str) -> str:
    """Return an address as a field's value; what would end the field, or is no ASCII, is quoted."""
    quoted = (c if c.isascii() and c not in '{}"\\' else f"%{c.encode().hex()}" for c in url)
    return "".join(quoted)


@dataclass
class Bibliography:
    """The works that one report cites, by key."""

    cited: dict[str, Work] = field(default_factory=dict)

    def cite(self, work: Work) -> str:
        """Note that a work is cited; return `[@key]`, as pandoc reads it."""
        key, count = work.key, 1
        while self.cited.get(key, work).fields != work.fields:  # another work of that key
            count += 1
            key = f"{work.key}-{count}"
        self.cited[key] = Work(key, work.kind, work.fields)
        return f"[@{key}]"

    def of_reference(self, reference: str, name: str) -> str:
        """Return `[@key]` of what a registry entry refers to.

        Args:
            reference: such as `arXiv:2010.11929`, `doi:10.1109/5.726791`, an address or words.
            name: of the entry, the title of a work of which no more is known.
        """
        reference = visible(reference).strip()
        bare = _SOURCE.sub("", reference)
        known = _by_identity().get(bare.lower())
        return self.cite(known or _unknown(reference, bare, name))

    def of_hub_page(self, name: str, revision: str | None, *, data: bool = False) -> str:
        """Return `[@key]` of a repository's page on the hub.

        Args:
            name: owner/name.
            revision: commit.
            data: whether it holds a data set, not a model.
        """
        name = visible(name)
        url = f"{HUB}/{'datasets/' if data else ''}{name}"
        at = f", revision {revision}" if revision else ""
        fields = (
            ("author", f"{{{_value(name.partition('/')[0])}}}"),
            ("title", f"{{{_value(name)}}}"),
            ("howpublished", _value(url)),
            ("note", _value(f"{'Data set' if data else 'Model'} on the Hugging Face Hub{at}")),
            ("url", _address(url)),
        )
        return self.cite(Work(f"hub-{_slug(name)}", "misc", fields))

    def in_text(self, text: str, escape: Callable[[str], str] = escape_inline) -> str:
        """Return markdown of plain text in which the sources that are known are cited.

        >>> Bibliography().in_text("exact (Clopper & Pearson 1934)")
        'exact [@clopper1934use]'
        >>> Bibliography().in_text("Guo et al. 2017; Nixon et al. 2019")
        '[@guo2017calibration; @nixon2019measuring]'
        """
        parts, end = [], 0
        for found in _labels().finditer(text):
            work = _by_label()[found["bare"] or found["free"]]
            between = text[end : found.start()]
            parts += [_keep_spaces(between, escape), self.cite(work)]
            end = found.end()
        parts.append(_keep_spaces(text[end:], escape))
        return "".join(parts).replace("]; [@", "; @")

    def to_bibtex(self) -> str:
        """Return the entries of all that was cited, by key."""
        return "\n".join(self.cited[key].to_bibtex() for key in sorted(self.cited))


def _keep_spaces(text: str, escape: Callable[[str], str]) -> str:
    """Escape text without losing the spaces at its ends."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    return text[:start] + escape(inner) + text[start + len(inner) :]


def _unknown(reference: str, bare: str, name: str) -> Work:
    """Return what can be said of a work of which the registry gives a reference only."""
    title = ("title", f"{{{_value(name)}}}")
    kind = reference[: len(reference) - len(bare)].lower()
    if kind.startswith("arxiv"):
        found: Iterable[tuple[str, str]] = (
            ("howpublished", _value(f"arXiv:{bare}")),
            ("archiveprefix", "arXiv"),
            ("eprint", _value(bare)),
        )
    elif kind.startswith("doi"):
        found = (("howpublished", _value(f"doi:{bare}")), ("doi", _address(bare)))
    elif re.match(r"https?://\S+$", bare):
        found = (("howpublished", _value(bare)), ("url", _address(bare)))
    else:
        found = (("note", _value(bare)),)
    return Work(f"ref-{_slug(bare)}", "misc", (title, *found))
