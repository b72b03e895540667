"""Odd and hostile files and folders: each is taken with the right pixels or left out with a reason.

Whatever lies in a folder, the images beside it are used, nothing blocks, and nothing is raised but
genkit's errors.
"""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import images, open_named, save_images
from PIL import Image

from genkit.data.decode import decode_image, read_image
from genkit.data.frame import Frame
from genkit.data.image_file import BadImage
from genkit.data.prepare import prepare
from genkit.data.walk import find_images
from genkit.errors import GenkitError

SIDE = 16
Make = Callable[[Path], object]
NO_IMAGE = "is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"
HUGE = "has more than 64,000,000 pixels"
DAMAGED = "is damaged: "
NO_REGULAR = "is not a regular file"
LINK = "is a symbolic link, which is not followed"


def picture(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    return Image.fromarray(images(1, 3, side, seed=7)[0].transpose(1, 2, 0)).convert(mode)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """The picture with a chunk behind its header."""
    whole = png(picture())
    return whole[:33] + chunk(kind, content) + whole[33:]


def empty_png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it has so many pixels, though hardly any follow."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    )


def saved(image: Image.Image, kind: str | None = None, **options: object) -> Make:
    return lambda path: image.save(path, kind, **options)


def written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def bind(path: Path) -> None:
    """A socket under this name, which may be longer than its address could be."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def animation(kind: str) -> Make:
    second = Image.new("RGB", (SIDE, SIDE), "red")
    return saved(picture(), kind, save_all=True, append_images=[second], lossless=True)


WHOLE = png(picture())
PIXELS = np.asarray(picture())
GREY = np.asarray(picture("L"))[..., None].repeat(3, 2)
PALETTE = picture().quantize(8)
DEEP = (np.asarray(picture("L")).astype(np.uint16) * 257).tobytes()
RGBA = picture("RGBA")
RGBA.putalpha(Image.new("L", RGBA.size, 0))
HALF = Image.merge("RGBA", [*picture().split(), Image.new("L", (SIDE, SIDE), 255)])

TAKEN: dict[str, tuple[str, Make, np.ndarray | int]] = {
    "rgb": ("x.png", written(WHOLE), PIXELS),
    "upper case ending": ("X.PNG", written(WHOLE), PIXELS),
    "bmp under the name of a png": ("x.png", saved(picture(), "BMP"), PIXELS),
    "png under the name of a jpeg": ("x.jpg", written(WHOLE), PIXELS),
    "grey": ("x.png", saved(picture("L")), GREY),
    "one bit": ("x.png", saved(Image.new("1", (9, 9), 1)), 255),
    "sixteen bits": ("x.png", saved(Image.frombytes("I;16", (SIDE, SIDE), DEEP)), GREY),
    "palette": ("x.png", saved(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "palette, see-through": ("x.png", saved(PALETTE, transparency=bytes(8)), 255),
    "rgba, opaque": ("x.png", saved(HALF), PIXELS),
    "rgba, see-through": ("x.png", saved(RGBA), 255),
    "la, see-through": ("x.png", saved(RGBA.convert("LA")), 255),
    "rgb with a transparent colour": (
        "x.png",
        saved(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3)),
        255,
    ),
    "cmyk jpeg": ("x.jpg", saved(Image.new("CMYK", (32, 32), (0, 0, 0, 255)), quality=100), 0),
    "grey jpeg": ("x.jpeg", saved(Image.new("L", (32, 32), 77), quality=100), 77),
    "progressive jpeg": ("x.jpg", saved(Image.new("RGB", (99, 9)), progressive=True), 0),
    "animated png": ("x.png", animation("PNG"), PIXELS),
    "animated webp": ("x.webp", animation("WEBP"), PIXELS),
    "animated gif": ("x.gif", animation("GIF"), np.asarray(picture().quantize(256).convert("RGB"))),
    "tiff": ("x.tif", saved(picture(), "TIFF"), PIXELS),
    "tiff with compression": ("x.TIFF", saved(picture(), "TIFF", compression="tiff_lzw"), PIXELS),
    "tiff of 16 bits": ("x.tiff", saved(Image.frombytes("I;16", (SIDE, SIDE), DEEP), "TIFF"), GREY),
    "one pixel": ("x.png", saved(Image.new("RGB", (1, 1), (9, 9, 9))), 9),
    "one column": ("x.png", saved(Image.new("RGB", (1, 20_000), (9, 9, 9))), 9),
    "one row": ("x.png", saved(Image.new("L", (20_000, 1), 9)), 9),
    "bytes behind the end": ("x.png", written(WHOLE + bytes(10_000)), PIXELS),
    "damaged exif": ("x.png", written(with_chunk(b"eXIf", b"II*\0" + b"\xff" * 99)), PIXELS),
    "long plain text": ("x.png", written(with_chunk(b"tEXt", b"a\0" + b"x" * 500_000)), PIXELS),
    "damaged colour profile": ("x.png", written(with_chunk(b"iCCP", b"a\0\0junk")), PIXELS),
    "newline in the name": ("x\n.png", written(WHOLE), PIXELS),
    "quotes in the name": ("'x\" $(id);.png", written(WHOLE), PIXELS),
    "bytes in the name": (os.fsdecode(b"x\xff\xfe.png"), written(WHOLE), PIXELS),
    "escapes in the name": ("x\x1b[31m.png", written(WHOLE), PIXELS),
    "letters from right to left": ("\u202ex\u05d0.png", written(WHOLE), PIXELS),
    "a name of 255 bytes": ("x" * 251 + ".png", written(WHOLE), PIXELS),
    "a name with %": ("x%s%n{0}.png", written(WHOLE), PIXELS),
}

LEFT_OUT: dict[str, tuple[str, Make, str]] = {
    "empty": ("x.png", written(b""), NO_IMAGE),
    "one byte": ("x.png", written(b"\x89"), NO_IMAGE),
    "signature alone": ("x.png", written(WHOLE[:8]), NO_IMAGE),
    "cut in the header": ("x.png", written(WHOLE[:20]), f"{NO_IMAGE}|{DAMAGED}"),
    "cut behind the header": ("x.png", written(WHOLE[:33]), f"{NO_IMAGE}|{DAMAGED}"),
    "cut in the pixels": ("x.png", written(WHOLE[:200]), DAMAGED),
    "cut in the last pixels": ("x.png", written(WHOLE[:-40]), DAMAGED),
    "pixels replaced": ("x.png", written(WHOLE[:60] + bytes(60) + WHOLE[120:]), DAMAGED),
    "half a jpeg": (
        "x.jpg",
        lambda path: path.write_bytes((content := jpeg(picture()))[: len(content) // 2]),
        DAMAGED,
    ),
    "jpeg without its last bytes": (
        "x.jpg",
        lambda path: path.write_bytes(jpeg(picture())[:-2]),
        DAMAGED,
    ),
    "half a webp": (
        "x.webp",
        lambda path: (picture().save(path), os.truncate(path, path.stat().st_size // 2)),
        f"{NO_IMAGE}|{DAMAGED}",
    ),
    "half a bmp": (
        "x.bmp",
        lambda path: (picture().save(path), os.truncate(path, path.stat().st_size // 2)),
        DAMAGED,
    ),
    "one bit of a palette flipped": (
        "x.png",
        lambda path: path.write_bytes(flip(png(PALETTE), 45)),
        "wrong checksum of chunk PLTE",
    ),
    "one bit of the pixels flipped": (
        "x.png",
        lambda path: path.write_bytes(flip(WHOLE, 300)),
        "wrong checksum of chunk IDAT",
    ),
    "tiff of two pages": (
        "x.tif",
        saved(picture(), "TIFF", save_all=True, append_images=[picture("L")]),
        "has several pages; save the one to be used as a file of its own",
    ),
    "tiff of fractions": (
        "x.tif",
        saved(Image.new("F", (9, 9), 0.5), "TIFF"),
        "holds fractions; save it with 8 or 16 bits a channel",
    ),
    "tiff of 32 bits": (
        "x.tif",
        saved(Image.new("I", (9, 9), 70_000), "TIFF"),
        "has 32 bits a channel; save it with 8 or 16",
    ),
    "half a tiff": (
        "x.tif",
        lambda path: (picture().save(path), os.truncate(path, path.stat().st_size // 2)),
        f"{NO_IMAGE}|{DAMAGED}",
    ),
    "text": ("x.png", written(b"a text file\n" * 100), NO_IMAGE),
    "web page": ("x.jpg", written(b"<html>404 Not Found</html>"), NO_IMAGE),
    "script": ("x.png", written(b"#!/bin/sh\ntouch x\n"), NO_IMAGE),
    "svg": ("x.png", written(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), NO_IMAGE),
    "jpeg 2000": ("x.png", saved(picture(), "JPEG2000"), NO_IMAGE),
    "eps": ("x.png", saved(picture(), "EPS"), NO_IMAGE),
    "icon": ("x.png", saved(picture(), "ICO"), NO_IMAGE),
    "zeros": ("x.png", written(bytes(10_000)), NO_IMAGE),
    "bomb of 100 million pixels": ("x.png", written(empty_png(10_000, 10_000)), HUGE),
    "bomb in one row": ("x.png", written(empty_png(2**31 - 1, 1)), HUGE),
    "bomb in black and white": ("x.png", written(empty_png(60_000, 60_000, 1, 0)), HUGE),
    "no pixels at all": ("x.png", written(empty_png(0, 5)), f"{NO_IMAGE}|{DAMAGED}"),
    "text bomb": (
        "x.png",
        written(with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))),
        DAMAGED,
    ),
    "many texts": (
        "x.png",
        written(WHOLE[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))) * 99),
        DAMAGED,
    ),
    "colour profile bomb": (
        "x.png",
        written(with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27)))),
        DAMAGED,
    ),
    "sparse file of 1 TB": ("x.png", lambda path: os.truncate(touched(path), 2**40), "bytes"),
    "link to itself": ("x.png", lambda path: path.symlink_to(path), LINK),
    "link to an image": ("x.png", lambda path: path.symlink_to(path.parent / "0.png"), LINK),
    "link out of the folder": ("x.png", lambda path: path.symlink_to("/etc/hostname"), LINK),
    "link to nothing": ("x.png", lambda path: path.symlink_to("nothing"), LINK),
    "link to a device": ("x.png", lambda path: path.symlink_to("/dev/zero"), LINK),
    "pipe": ("x.png", os.mkfifo, NO_REGULAR),
    "socket": ("x.png", bind, NO_REGULAR),
}


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def touched(path: Path) -> Path:
    path.touch()
    return path


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def make(place: Path, name: str, maker: Make) -> Path:
    """A folder of four good images and one odd thing."""
    save_images(place, 4, SIDE)
    maker(place / name)
    return place


@pytest.mark.parametrize("case", TAKEN)
def test_odd_but_sound_file_is_taken_with_its_pixels(tmp_path: Path, case: str) -> None:
    name, maker, expected = TAKEN[case]
    make(tmp_path, name, maker)
    pixels = read_image(tmp_path / name, SIDE, 3).transpose(1, 2, 0)
    assert (
        abs(pixels.astype(int) - expected) <= (2 if name.endswith(("jpg", "jpeg")) else 0)
    ).all()
    data = open_named(f"folder:{tmp_path}", size=SIDE, channels="3")
    every = [*data.train.images, *data.test.images]
    assert len(every) == 5
    assert sum(np.array_equal(image.transpose(1, 2, 0), pixels) for image in every) == 1


@pytest.mark.parametrize("case", LEFT_OUT)
def test_bad_file_is_left_out_with_its_reason_and_hurts_no_other(tmp_path: Path, case: str) -> None:
    name, maker, reason = LEFT_OUT[case]
    make(tmp_path, name, maker)
    start = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = open_named(f"folder:{tmp_path}", size=SIDE)
    assert len(data.train.images) + len(data.test.images) == 4
    (note,) = (note for note in data.notes if note.startswith("skipped"))
    assert note.startswith(f"skipped {name}: ") and note.isprintable()
    assert any(word in note for word in reason.split("|"))
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_all_of_them_together_are_prepared_as_they_are_read(tmp_path: Path) -> None:
    place = tmp_path / "in"
    for number, (name, maker, _) in enumerate([*TAKEN.values(), *LEFT_OUT.values()]):
        (place / f"{number:02}").mkdir(parents=True)
        if len(name) < 200:
            maker(place / f"{number:02}" / name)
    manifest = prepare(place, tmp_path / "out", size=SIDE, channels="3").manifest
    folder = open_named(f"folder:{place}", size=SIDE, channels="3", resample="smooth")
    data = open_named(f"prepared:{tmp_path / 'out'}")
    assert data.fingerprint == folder.fingerprint and data.classes == folder.classes
    assert manifest.shape[0] == len(TAKEN) - 1  # without the long name
    assert len(manifest.left_out) == len(LEFT_OUT)


@pytest.mark.parametrize("orientation", [*range(10), 65535])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_exif_turns_every_format_and_nonsense_turns_none(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    corner = Image.new("RGB", (32, 32), "black")
    corner.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner.save(tmp_path / f"a.{ending}", exif=exif)
    bright = read_image(tmp_path / f"a.{ending}", 32, 1)[0] > 127
    # Where the corner that is stored at the top left belongs (the EXIF standard, table of 0x0112).
    rows, columns = {
        2: (slice(16), slice(16, 32)),
        3: (slice(16, 32), slice(16, 32)),
        4: (slice(16, 32), slice(16)),
        6: (slice(16), slice(16, 32)),
        7: (slice(16, 32), slice(16, 32)),
        8: (slice(16, 32), slice(16)),
    }.get(orientation, (slice(16), slice(16)))
    assert bright[rows, columns].all() and bright.sum() == 256


# Folders


def test_empty_folder_and_one_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with pytest.raises(GenkitError, match="holds no image that can be used"):
        open_named(f"folder:{tmp_path}")
    save_images(tmp_path / "deep" / "er", 1)
    with pytest.raises(GenkitError, match="holds 1 image; the fewest"):
        open_named(f"folder:{tmp_path}")


def test_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    save_images(tmp_path / "x.png", 3)
    assert [str(image.path) for image in find_images(tmp_path).images] == [
        f"x.png/{number}.png" for number in range(3)
    ]


def test_names_that_differ_in_case_alone_are_two_images_where_the_disk_can(tmp_path: Path) -> None:
    save_images(tmp_path, 3)
    (tmp_path / "A.png").write_bytes(WHOLE)
    (tmp_path / "a.PNG").write_bytes(WHOLE)
    expected = len(list(tmp_path.iterdir()))
    assert len(find_images(tmp_path).images) == expected


def test_duplicates_count_as_often_as_they_lie_there(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(WHOLE)
    os.link(tmp_path / "0.png", tmp_path / "link.png")
    data = open_named(f"folder:{tmp_path}", size=SIDE)
    assert len(data.train.images) + len(data.test.images) == 6


def test_deeply_nested_images_are_found(tmp_path: Path) -> None:
    """Deeper than Python's recursion goes."""
    before, depth = Path.cwd(), 1_100
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x.png").write_bytes(WHOLE)
    finally:
        os.chdir(before)
    save_images(tmp_path, 3, SIDE)
    assert len(find_images(tmp_path).images) == 4
    assert open_named(f"folder:{tmp_path}").classes == ()
    remove_deep(tmp_path / "d")


def test_paths_too_long_for_the_system_are_left_out(tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(before)
    save_images(tmp_path, 3, SIDE)
    found = find_images(tmp_path)
    assert len(found.images) == 3
    assert [*found.left_out.values()] == ["cannot be read (File name too long)"]
    remove_deep(tmp_path / ("d" * 250))


def remove_deep(path: Path) -> None:
    """Remove a chain of folders that shutil's recursion could not."""
    before, depth = Path.cwd(), 0
    os.chdir(path)
    while inner := [entry.name for entry in os.scandir() if entry.is_dir()]:
        os.chdir(inner[0])
        depth += 1
    for _ in range(depth):
        for entry in os.scandir():
            os.unlink(entry.name) if entry.is_file() else os.rmdir(entry.name)
        os.chdir("..")
    os.chdir(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    save_images(tmp_path, 4)
    save_images(tmp_path / "secret", 2)
    (tmp_path / "3.png").chmod(0)
    (tmp_path / "secret").chmod(0)
    notes = open_named(f"folder:{tmp_path}").notes
    (tmp_path / "secret").chmod(0o700)
    assert "skipped 3.png: cannot be read (Permission denied)" in notes
    assert "skipped secret: cannot be read (Permission denied)" in notes


@pytest.mark.parametrize(
    ("become", "reason"),
    [
        (lambda path: None, r"cannot be read \(No such file or directory\)"),
        (os.mkdir, r"cannot be read \("),
        (os.mkfifo, "cannot be read|not a regular file"),
        (lambda path: Path(path).write_bytes(b"half"), "is not a PNG"),
    ],
)
@pytest.mark.parametrize("how", ["folder", "prepared"])
def test_file_that_changes_between_walk_and_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, become: Make, reason: str, how: str
) -> None:
    place = tmp_path / "in"
    save_images(place, 5)

    def find_and_change(folder: Path, splits: bool) -> object:
        found = find_images(folder, splits)
        (place / "2.png").unlink()
        become(place / "2.png")
        return found

    if how == "folder":
        monkeypatch.setattr("genkit.data.folder.find_images", find_and_change)
        notes = open_named(f"folder:{place}").notes
    else:
        monkeypatch.setattr("genkit.data.prepare.find_images", find_and_change)
        notes = prepare(place, tmp_path / "out", size=8).manifest.notes
    (note,) = (note for note in notes if note.startswith("skipped 2.png: "))
    assert re.search(reason, note)


def test_a_hundred_thousand_entries_are_walked_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(WHOLE)
    for number in range(1, 1000):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    start = time.process_time()
    for _ in range(100):
        assert len(find_images(tmp_path).images) == 1000
    assert time.process_time() - start < 20


# Arbitrary bytes


def test_no_mutation_of_a_file_raises_anything_but_a_refusal() -> None:
    random = np.random.default_rng(0)
    sources = [WHOLE, jpeg(picture()), jpeg(picture("CMYK")), png(PALETTE, transparency=bytes(8))]
    for kind in ("WEBP", "BMP"):
        buffer = io.BytesIO()
        picture().save(buffer, kind)
        sources.append(buffer.getvalue())
    outcomes = {True: 0, False: 0}
    for number in range(3_000):
        content = bytearray(sources[number % len(sources)])
        for _ in range(random.integers(1, 5)):
            place = int(random.integers(min(len(content), random.choice([60, 10_000]))))
            content[place] = random.integers(256)
        del content[int(random.integers(30, 2 * len(content))) :]
        try:
            pixels = decode_image(bytes(content), Frame(8, 8, 3)).pixels
            assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8
            outcomes[True] += 1
        except BadImage as error:
            assert error.reason and "\n" not in error.reason
            outcomes[False] += 1
    assert min(outcomes.values()) > 300
