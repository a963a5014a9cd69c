"""A small file system of a node's own: it can be filled by others, and lose its disk."""

import os
import subprocess

import pytest

MIB = 1 << 20


class Volume:
    """`kind` ext4 (in a loop device) or tmpfs, of so many MiB, at a path of its own. Skips the test
    where nothing can be mounted."""

    def __init__(self, world, kind="ext4", mib=24):
        self.path = world.dir / "volume"
        self.path.mkdir()
        self._image = world.dir / "volume.img"
        self._filler = self.path / "filler"
        self._options = ["-t", "tmpfs", "-o", f"size={mib}m", "tmpfs"]
        if kind == "ext4":
            with open(self._image, "wb") as f:
                f.truncate(mib * MIB)
            # No blocks kept for root, who these tests are.
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", self._image], check=True)
            self._options = ["-t", "ext4", "-o", "loop", self._image]
        self.mounted = False
        self.mount()
        world.keep(self)

    def mount(self):
        done = subprocess.run(["mount", *self._options, self.path], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        self.mounted = True

    def unmount(self):
        if self.mounted:
            subprocess.run(["umount", self.path], check=True)
            self.mounted = False

    stop = unmount

    def free(self):
        fs = os.statvfs(self.path)
        return fs.f_bavail * fs.f_frsize

    def fill(self, leave=0):
        """Somebody else takes all but `leave` bytes."""
        with open(self._filler, "ab") as f:
            while self.free() > leave:
                part = min(MIB, max(4096, self.free() - leave))
                try:
                    f.write(b"\xff" * part)
                    f.flush()
                except OSError:
                    break

    def clear(self):
        """And gives it back."""
        self._filler.unlink(missing_ok=True)

    def fail(self):
        """The kernel finds the file system broken and lets nothing be written any more."""
        subprocess.run(["mount", "-o", "remount,abort", self.path], check=False,
                       capture_output=True)

    def logs(self):
        return []
