"""A country database in MaxMind's format (version 2.0), made from a few rows.

    path = mmdb.write(directory / "c.mmdb", {"192.0.2.0/24": "US", "2001:db8::/32": "JP"})

IPv6 with the IPv4 addresses at ::/96, records of 24 bits, as the published databases. No block may
lie inside another.
"""

import ipaddress
import os
import pathlib

_MARK = b"\xab\xcd\xefMaxMind.com"
_TEXT, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY = 2, 5, 6, 7, 9, 11


def _head(kind, size):
    assert size < 29
    return bytes([kind << 5 | size]) if kind <= 7 else bytes([size, kind - 7])


def _text(text):
    return _head(_TEXT, len(text)) + text.encode()


def _number(kind, value):
    data = value.to_bytes(8, "big").lstrip(b"\0")
    return _head(kind, len(data)) + data


def _map(pairs):
    return _head(_MAP, len(pairs)) + b"".join(_text(k) + v for k, v in pairs.items())


def _key(block):
    """The bits of a block as text."""
    net = ipaddress.ip_network(block)
    shift = 96 if net.version == 4 else 0
    return f"{int(net.network_address):0128b}"[:shift + net.prefixlen]


def make(rows, kind="Test-Country"):
    """The bytes. rows: {block: code}, or {block: None} for an entry that names no country."""
    nodes, data = [[None, None]], b""
    for block, code in rows.items():
        bits, at = _key(block), 0
        for bit in map(int, bits[:-1]):
            if nodes[at][bit] is None:
                nodes[at][bit] = len(nodes)
                nodes.append([None, None])
            at = nodes[at][bit]
        nodes[at][int(bits[-1])] = ("data", len(data))
        data += _map({"country": _map({"iso_code": _text(code)})} if code else {})

    def record(value):
        if value is None:
            value = len(nodes)
        elif isinstance(value, tuple):
            value = len(nodes) + 16 + value[1]
        return value.to_bytes(3, "big")

    meta = _map({
        "node_count": _number(_UINT32, len(nodes)), "record_size": _number(_UINT16, 24),
        "ip_version": _number(_UINT16, 6), "database_type": _text(kind),
        "languages": _head(_ARRAY, 0), "binary_format_major_version": _number(_UINT16, 2),
        "binary_format_minor_version": _number(_UINT16, 0),
        "build_epoch": _number(_UINT64, 1700000000), "description": _map({})})
    tree = b"".join(record(side) for node in nodes for side in node)
    return tree + bytes(16) + data + _MARK + meta


def write(path, rows, kind="Test-Country"):
    """Write a database beside `path` and move it there, as who updates one does; returns path."""
    path = pathlib.Path(path)
    new = path.with_suffix(".new")
    new.write_bytes(make(rows, kind))
    os.replace(new, path)
    return str(path)
