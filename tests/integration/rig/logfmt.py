"""Reading relayd's log while it is written."""

import re

from rig.wait import DEFAULT, until

_PAIR = re.compile(r'([A-Za-z_][\w.\-]*)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s|$)')
_ESCAPE = re.compile(r'\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)', re.S)
_PLAIN = re.compile(r"[\w.@:+\-]+", re.A)  # a value that stands in its line as it is
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}


def _unescape(match):
    text = match.group(1)
    if text[0] in "xu" and len(text) > 1:
        return chr(int(text[1:], 16))
    return _CONTROL.get(text, text)


def parse(line):
    """One logfmt line as a dictionary of strings; {} when it is none."""
    fields, at = {}, 0
    line = line.rstrip("\n")
    while at < len(line):
        match = _PAIR.match(line, at)
        if not match:
            return {}
        value = match.group(2)
        if value.startswith('"'):
            value = _ESCAPE.sub(_unescape, value[1:-1])
        fields[match.group(1)] = value
        at = match.end()
    return fields


def _matches(entry, fields):
    for key, want in fields.items():
        if key not in entry:
            return False
        if callable(want):
            if not want(entry[key]):
                return False
        elif entry[key] != str(want):
            return False
    return True


class Log:
    """The growing log file of one node. Entries are dictionaries of strings, made of a line when a
    search wants it: a long run has millions of them."""

    def __init__(self, path):
        self.path = path
        self._lines, self._offset, self._rest = [], 0, b""
        self._forgotten = 0  # lines before the first one here

    def _read(self):
        try:
            with open(self.path, "rb") as f:
                f.seek(self._offset)
                new = f.read()
        except FileNotFoundError:
            return
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        self._lines.extend(line.decode("utf-8", "replace") for line in lines)

    def lines(self):
        """Every line as text, whatever wrote it."""
        self._read()
        return self._lines

    def mark(self):
        """A place to start later searches from: pass it as since=."""
        self._read()
        return self._forgotten + len(self._lines)

    def forget(self):
        """Drop the lines up to here; a search sees those that come from now on."""
        self._forgotten = self.mark()
        self._lines.clear()

    def all(self, since=0, **fields):
        self._read()
        return self._search(since, fields)

    def _search(self, since, fields):
        parts = [key + "=" for key in fields]
        parts += [str(w) for w in fields.values() if not callable(w) and _PLAIN.fullmatch(str(w))]
        found = (parse(line) for line in self._lines[max(0, since - self._forgotten):]
                 if all(part in line for part in parts))
        return [entry for entry in found if entry and _matches(entry, fields)]

    def wait(self, timeout=DEFAULT, count=1, since=0, **fields):
        """The entry that matches; with count=N the list of at least N such entries.

        A field's value is compared as text, or is a function of the text.
        """
        hits, seen = [], since

        def found():
            nonlocal seen
            first, seen = seen, self.mark()
            hits.extend(self._search(first, fields))
            return hits if len(hits) >= count else None

        said = " ".join(f"{k}={v if not callable(v) else '(...)'}" for k, v in fields.items())
        until(found, timeout, f"{count} log line(s) {said} in {self.path}")
        return hits[0] if count == 1 else hits

    def tail(self, n=60):
        return "\n".join(self.lines()[-n:])
