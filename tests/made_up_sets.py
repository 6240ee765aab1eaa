"""Tiny made-up data sets in the layouts of the official ones. Pictures are empty files: loaders do not open them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from scipy.io import savemat

LIVE_COUNTS = {"jp2k": 3, "jpeg": 2, "wn": 2, "gblur": 2, "fastfading": 1}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def cells(texts: Sequence[str]) -> np.ndarray:
    """A MATLAB cell array of texts, 1 x N."""
    array = np.empty((1, len(texts)), object)
    array[0, :] = texts
    return array


def live(root: Path, *, realigned: bool = True, info: bool = True, refnames: bool = True) -> Path:
    """Ten pictures of two references; the first of each folder but fastfading is a copy of one (orgs = 1)."""
    touch(root / "refimgs", "bikes.bmp", "caps.bmp")
    references, copies = [], []
    for kind, count in LIVE_COUNTS.items():
        lines = []
        for n in range(1, count + 1):
            touch(root / kind, f"img{n}.bmp")
            references.append("bikes.bmp" if n % 2 else "caps.bmp")
            copies.append(n == 1 and kind != "fastfading")
            lines.append(f"{references[-1]} img{n}.bmp {0.5 * n}")
        if info:
            # The official lines are not in the order of the numbers.
            (root / kind / "info.txt").write_text("\n".join(reversed(lines)) + "\n")
    total = len(references)
    dmos = np.where(copies, 0.0, 10.0 * np.arange(total))
    savemat(root / "dmos.mat", {"dmos": dmos[None], "orgs": np.array([copies], np.uint8)})
    if refnames:
        savemat(root / "refnames_all.mat", {"refnames_all": cells(references)}, do_compression=True)
    if realigned:
        new = {"dmos_new": dmos[None] - 2.5, "dmos_std": 0.1 * np.arange(total)[None], "orgs": np.array([copies])}
        savemat(root / "dmos_realigned.mat", new)
    return root


CSIQ_ROWS = [
    ("1600", 1, "noise", 1, 0.05, 0.1),
    ("1600", 2, "blur", 3, 0.06, 0.4),
    ("trolley", 3, "contrast", 2, 0.07, 0.2),
    ("trolley", 4, "fnoise", 5, 0.08, 0.9),
    ("trolley", 5, "jpeg", 4, 0.09, 0.8),
    ("1600", 6, "jpeg 2000", 5, 0.1, 1.0),
]
CSIQ_COLUMNS = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")


def csiq(root: Path, *, xlsx: bool = True) -> Path:
    touch(root / "src_imgs", "1600.png", "trolley.png")
    touch(
        root / "dst_imgs",
        "awgn/1600.AWGN.1.png",
        "blur/1600.BLUR.3.png",
        "contrast/trolley.contrast.2.png",
        "fnoise/trolley.fnoise.5.png",
        "jpeg/trolley.JPEG.4.png",
        "jpeg2000/1600.jpeg2000.5.png",
    )
    if xlsx:
        blank: list[tuple[object, ...]] = [(), ("CSIQ DMOS",), ()]
        workbook(root / "csiq.DMOS.xlsx", {"notes": [("hello",)], "all_by_image": [*blank, CSIQ_COLUMNS, *CSIQ_ROWS]})
    else:
        table(root / "csiq.DMOS.csv", CSIQ_COLUMNS, CSIQ_ROWS)
    return root


def workbook(path: Path, sheets: dict[str, Iterable[Sequence[object]]]) -> None:
    """An Excel workbook; cells begin at column D, as in CSIQ's. Texts are shared, save every third, which is inline."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    shared: list[str] = []

    def cell(value: object, place: str) -> str:
        if not isinstance(value, str) or value.isdecimal():  # Excel turns a name such as 1600 into a number
            return f'<c r="{place}"><v>{value}</v></c>'
        shared.append(value)
        if len(shared) % 3 == 0:
            return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f'<c r="{place}" t="s"><v>{len(shared) - 1}</v></c>'

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        entries = relations = ""
        for i, (name, rows) in enumerate(sheets.items(), 1):
            entries += f'<sheet name="{name}" sheetId="{i}" r:id="rId{i}"/>'
            relations += f'<Relationship Id="rId{i}" Target="worksheets/sheet{i}.xml"/>'
            body = "".join(
                f'<row r="{y}">' + "".join(cell(value, f"{'DEFGHI'[x]}{y}") for x, value in enumerate(row)) + "</row>"
                for y, row in enumerate(rows, 1)
            )
            book.writestr(f"xl/worksheets/sheet{i}.xml", f"<worksheet {main}><sheetData>{body}</sheetData></worksheet>")
        book.writestr("xl/workbook.xml", f'<workbook {main} xmlns:r="{relation}"><sheets>{entries}</sheets></workbook>')
        book.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}">{relations}</Relationships>')
        # In two pieces, as where a part of a text is bold.
        texts = "".join(f"<si><r><t>{escape(t[:2])}</t></r><r><t>{escape(t[2:])}</t></r></si>" for t in shared)
        book.writestr("xl/sharedStrings.xml", f"<sst {main}>{texts}</sst>")


def table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


TID_ROWS = [("I01_01_1.bmp", 5.5, 0.1), ("I01_08_5.bmp", 2.25, 0.2), ("i02_24_3.bmp", 4.0, 0.3)]


def tid2013(root: Path) -> Path:
    """With the mixed case of the official set."""
    touch(root / "reference_images", "I01.BMP", "i02.bmp")
    touch(root / "distorted_images", "i01_01_1.bmp", "I01_08_5.BMP", "i02_24_3.bmp", "Thumbs.db")
    (root / "mos_with_names.txt").write_text("".join(f"{mos} {name}\r\n" for name, mos, _ in TID_ROWS))
    (root / "mos_std.txt").write_text("".join(f"{std}\r\n" for _, _, std in TID_ROWS))
    return root


KADID_ROWS = [
    ("I01_01_01.png", "I01.png", 4.57, 0.49),
    ("I01_10_05.png", "I01.png", 1.0, 0.0),
    ("I02_25_03.png", "I02.png", 3.2, 0.25),
]


def kadid10k(root: Path) -> Path:
    touch(root / "images", "I01.png", "I02.png", *(name for name, *_ in KADID_ROWS))
    table(root / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), KADID_ROWS)
    return root


def clive(root: Path) -> Path:
    names = [f"t{n}.bmp" for n in range(1, 3)] + ["3.bmp", "10.bmp", "1024.JPG"]
    touch(root / "Images", *(f"trainingImages/{name}" for name in names[:2]), *names[2:])
    data = root / "Data"
    data.mkdir()
    savemat(data / "AllImages_release.mat", {"AllImages_release": cells(names).T})
    savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.array([[90.0, 80.0, 63.96, 25.3, 48.9]])})
    savemat(data / "AllStdDev_release.mat", {"AllStdDev_release": np.array([[1.0, 2.0, 18.1, 19.2, 20.3]])})
    return root


KONIQ_ROWS = [("10004473376.jpg", 77.38, 0.53, "training"), ("10007357496.jpg", 68.73, 0.58, "test")]


def koniq10k(root: Path, *, folder: str = "1024x768") -> Path:
    touch(root / folder, *(name for name, *_ in KONIQ_ROWS), "unrated.jpg")
    table(root / "koniq10k_distributions_sets.csv", ("image_name", "MOS", "SD", "set"), KONIQ_ROWS)
    return root


def biq2021(root: Path) -> Path:
    """With the two empty columns of the official tables."""
    touch(root / "Images", "ss03 (3753).jpg", "ss01 (1726).jpg", "ss02 (8).jpg")
    columns = ("Image Name", "MOS", "", "")
    table(
        root / "Train (Images and MOS).csv",
        columns,
        [("ss03 (3753).jpg", "0.8471", "", ""), ("ss01 (1726).jpg", "0.2874", "", "")],
    )
    table(root / "Test (Images and MOS).csv", columns, [("ss02 (8).jpg", "0.5103", "", "")])
    return root
