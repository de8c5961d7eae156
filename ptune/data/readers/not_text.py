"""Files of other kinds under a data file's name, known by their first bytes."""

from __future__ import annotations

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\3\4": "zip",
}
DOCUMENTS = {
    b"%PDF-": "a PDF",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a file of an old Word or Excel",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
}
_OFFICE = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"word/")
"""What the zip file of a spreadsheet or a text document begins with."""
_NAME_AT = 30  # bytes: where the name of a zip's first file stands


def why_not_text(head: bytes) -> str | None:
    """What a file is instead of rows, and what to do; None if its first bytes say nothing against it."""
    if head.startswith(b"PK\3\4") and head[_NAME_AT:].startswith(_OFFICE):
        return (
            "the file is a spreadsheet or document of Excel or Word (.xlsx, .docx), not text: save it as CSV"
        )
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            return f"the file is compressed ({name}): unpack it first"
    for magic, name in DOCUMENTS.items():
        if head.startswith(magic):
            return f"the file is {name}, not text: put what it says into a text, CSV or JSONL file"
    return None
