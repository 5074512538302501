"""Text as files, pipes and editors bring it: UTF-8, perhaps as other systems write it."""

MARK = "\ufeff"
"""A byte order mark, as a decoder leaves it that does not know it."""


def decoded(data: bytes, errors: str = "strict") -> str:
    """`data` as text with one kind of line end, without a byte order mark.

    Raises UnicodeDecodeError for bytes that are not UTF-8, unless `errors` says otherwise.
    """
    return data.decode("utf-8-sig", errors).replace("\r\n", "\n")
