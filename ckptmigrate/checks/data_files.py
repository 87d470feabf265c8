"""Checks of data files: byte ranges inside them, no overlaps, no unknown ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter

from ckptmigrate.checkpoint import downloads
from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.rows import Chunk
from ckptmigrate.checks.findings import Finding, finding, shown
from ckptmigrate.text.printable import counted, number


def ranges(material: Material) -> Iterator[Finding]:
    """Yield findings about byte ranges that are outside their data file or overlap."""
    sizes = material.directory.files()
    of_file: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in material.chunks:
        of_file[chunk.blob.file].append(chunk)
    for name, chunks in of_file.items():
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            what = (
                f"{counted(len(chunks), 'chunk or object is', 'chunks and objects are')} stored "
                f"in {shown(name)!r}"
            )
            yield finding(material, "payload-name", what, *_keys(chunks))
        elif name not in sizes:
            many = counted(len(chunks), "chunk or object", "chunks and objects")
            yield finding(
                material,
                "payload-missing",
                f"{shown(name)} is missing; it contains {many}",
                *_keys(chunks),
                fix=downloads.fix(material.path, "") or None,
            )
        elif name not in material.pointers:
            yield from _outside(material, name, chunks)
        yield from _overlapping(material, name, chunks)


def _span(chunk: Chunk) -> tuple[int, int]:
    return chunk.blob.offset, chunk.blob.offset + chunk.blob.length


def _keys(chunks: Iterable[Chunk]) -> list[str]:
    return list(dict.fromkeys(chunk.key for chunk in chunks))


def _outside(material: Material, name: str, chunks: list[Chunk]) -> Iterator[Finding]:
    size = material.directory.files()[name]
    beyond = [c for c in chunks if c.blob.offset + c.blob.length > size]
    if beyond:
        end = max(c.blob.offset + c.blob.length for c in beyond)
        many = counted(len(beyond), "chunk or object is", "chunks and objects are")
        yield finding(
            material,
            "byte-range-outside",
            f"{shown(name)} has {size} bytes, and {many} stored beyond its end, up to byte "
            f"{number(end)}",
            *_keys(beyond),
        )


def _overlapping(material: Material, name: str, chunks: list[Chunk]) -> Iterator[Finding]:
    """Yield a finding about byte ranges that partly overlap.

    Identical ranges are valid: equal idle rerun shards share their bytes.
    """
    spans = [(*_span(chunk), chunk.key) for chunk in chunks if chunk.blob.length]
    pairs: list[tuple[str, str]] = []
    before, furthest, holder = (-1, -1), 0, ""
    for first, end, key in sorted(spans, key=itemgetter(0, 1)):
        if before == (first, end):
            continue
        before = first, end
        if first < furthest:
            pairs.append((holder, key))
        if end > furthest:
            furthest, holder = end, key
    if pairs:
        many = counted(len(pairs), "byte range overlaps", "byte ranges overlap")
        what = f"{many} with another one in {shown(name)}"
        yield finding(material, "byte-ranges-overlap", what, *(f"{a} and {b}" for a, b in pairs))


def orphans(material: Material) -> Iterator[Finding]:
    """Yield findings about data files and bytes that no key refers to."""
    if material.metadata is None:
        return
    files, used = material.payload, {chunk.blob.file for chunk in material.chunks}
    lone = [name for name in files if name not in used]
    if lone:
        many = counted(len(lone), "data file is", "data files are")
        size = sum(files[name] for name in lone)
        yield finding(
            material, "orphan-payload", f"{many} not used by any key ({size} bytes)", *lone
        )
    loose = {name: count for name, count in material.unused_bytes.items() if name in used}
    if loose:
        yield finding(
            material,
            "orphan-bytes",
            f"{counted(sum(loose.values()), 'byte is', 'bytes are')} not used by any key",
            *(f"{name}: {counted(count, 'byte')}" for name, count in loose.items()),
        )


def ranks(material: Material) -> Iterator[Finding]:
    """Yield a finding about data files of ranks that have no save plan.

    Without save plans, the ranks of args.world_size are compared.
    """
    if material.planned is not None:
        world, source = len(material.planned), "save plans"
    else:
        recorded = material.common.argument("world_size") if material.common else None
        if type(recorded) is not int or recorded < 1:
            return
        world, source = recorded, "ranks in args.world_size"
    unknown = [
        name
        for name in material.directory.files()
        if (match := PAYLOAD.fullmatch(name)) and int(match[1]) >= world
    ]
    if unknown:
        many = counted(len(unknown), "data file is", "data files are")
        yield finding(
            material,
            "plan-rank-unknown",
            f"{many} of a rank that is not among the {number(world)} {source}",
            *unknown,
        )
