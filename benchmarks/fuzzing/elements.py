"""How Open Inference writes elements: which typed contents hold a datatype, and its form in raw contents."""

import struct

FLOATS = ("FP16", "FP32", "FP64")
CODES = {
    "BOOL": "B",
    **dict(zip(("UINT8", "UINT16", "UINT32", "UINT64"), "BHIQ", strict=True)),
    **dict(zip(("INT8", "INT16", "INT32", "INT64"), "bhiq", strict=True)),
    **dict(zip(FLOATS, "efd", strict=True)),
}
"""The letter by which struct knows a datatype; BYTES have none."""
HOLDERS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents; FP16 has none."""


def width(datatype: str) -> int:
    """Bytes of a raw element."""
    return struct.calcsize(f"<{CODES[datatype]}")


def limits(datatype: str) -> tuple[int, int]:
    """The least and the greatest number that a datatype of whole numbers, or BOOL, holds."""
    bits = 8 * width(datatype)
    if datatype == "BOOL":
        return 0, 1
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def packed(datatype: str, values: list) -> bytes:
    """Writes elements as raw contents."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{CODES[datatype]}", *values)
