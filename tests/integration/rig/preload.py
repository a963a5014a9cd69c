"""Libraries that relayd gets before its own (LD_PRELOAD), where a test makes calls fail or wait."""

from rig.proc import run


def library(world, name, source):
    """`source`, the path of a C file or its text, compiled into the world's directory, once."""
    built = world.dir / f"{name}.so"
    if not built.exists():
        if isinstance(source, str):
            text, source = source, built.with_suffix(".c")
            source.write_text(text)
        run("cc", "-std=gnu17", "-O1", "-shared", "-fPIC", "-o", built, source)
    return built
