"""Command lines that are wrong, and places that cannot be written to."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attempt import Mutation, bound_by_permissions
from pictures import CHECKPOINT
from settings import FIT

EVALUATE = ["evaluate", "set/SegmentationClass", "set/SegmentationClass", "shapes.yaml"]
LINES = [
    *(["fitt"], ["data"], ["data", "chek"], ["benchmark"], [""], ["--"], ["-x"], ["--nothing"], ["fit", "validate"]),
    *(["data", "check"], ["data", "check", "shapes.yaml", "more.yaml"], ["data", "check", "nowhere.yaml"], ["offsets"]),
    *(
        ["data", "check", "."],
        ["data", "check", "shapes.yaml", "--root"],
        ["data", "check", "shapes.yaml", "--roots=x"],
    ),
    *(["data", "check", "shapes.yaml", "--num_workers=-1"], ["data", "check", "shapes.yaml", "--num_workers=many"]),
    *(["data", "check", "shapes.yaml", "--splits=nowhere"], ["data", "check", "shapes.yaml", "--splits=[]"]),
    *(["data", "check", "shapes.yaml", "--show=-1"], ["data", "check", "shapes.yaml", "--settings=5"]),
    *(["data", "check", "shapes.yaml", "--settings={a: 1}"], ["data", "check", "shapes.yaml", "--root", "a\udcffb"]),
    *(["data", "stats", "shapes.yaml", "--split=nowhere"], ["data", "browse", "shapes.yaml"]),
    *(["data", "browse", "shapes.yaml", "out.html", "--split=nowhere"], ["data", "browse", "shapes.yaml", "set"]),
    *(["data", "browse", "shapes.yaml", "out.html", "--count=0"], ["data", "browse", "shapes.yaml", "no/out.html"]),
    *(["data", "make-shapes"], ["data", "make-shapes", "--output=set"], ["data", "make-shapes", "--output="]),
    *(["data", "make-shapes", "--output=new", "--train=0"], ["data", "make-shapes", "--output=new", "--size=1"]),
    *(["data", "make-shapes", "--output=new", "--train=-5"], ["data", "make-shapes", "--output=base.yaml"]),
    *(["data", "make-shapes", "--output=new", "--seed=-1"], ["data", "prepare", "voc-sbd", "set", "set"]),
    *(["data", "prepare", "voc-sbd", "nowhere", "nowhere"], ["data", "prepare", "other", "set", "set"]),
    *(["evaluate"], ["evaluate", "nowhere", "set/SegmentationClass", "shapes.yaml"], [*EVALUATE, "--names=nowhere"]),
    *(["evaluate", "set", "base.yaml", "shapes.yaml"], [*EVALUATE, "--stored_as=colours"], [*EVALUATE, "--names=."]),
    *([*EVALUATE, "--names=picture.png"], [*EVALUATE, "--json=no/where.json"], [*EVALUATE, "--json=set"]),
    *(["evaluate", "set/JPEGImages", "set/SegmentationClass", "shapes.yaml"], [*EVALUATE, "--detail=maybe"]),
    *(["offsets", CHECKPOINT], ["offsets", CHECKPOINT, "nowhere.png"], ["offsets", "nowhere.ckpt", "picture.png"]),
    *(["offsets", CHECKPOINT, "picture.png", "--output=set"], ["offsets", ".", "picture.png"]),
    *(["offsets", CHECKPOINT, "picture.png", "--output=out", f"--point={point}"] for point in ("1", "a,b", "-1,-1")),
    *(["offsets", CHECKPOINT, "picture.png", "--output=out", f"--point={point}"] for point in ("1,2,3", "9e9,1", "")),
    *(["offsets", CHECKPOINT, "picture.png", "--output=out", *more] for more in (["--class=dog"], ["--group=7"])),
    *(["export", CHECKPOINT, "--format=coreml"], ["export", "nowhere.ckpt"], ["export", "picture.png"], ["export"]),
    *(["export", CHECKPOINT, "--format=onnx", "--output=a.pt2"], ["export", CHECKPOINT, "--output=no/a.onnx"]),
    *(["export", CHECKPOINT, "--half=int8"], ["export", CHECKPOINT, "--device=cuda"], ["export", "set"]),
    *(["export", CHECKPOINT, "--root=set"], ["export", CHECKPOINT, "--data=model.yaml"], ["export", CHECKPOINT, "x"]),
    *(["export", CHECKPOINT, "--output=out.onnx", "--json=."], ["export", CHECKPOINT, "--output=set"]),
    *(["sweep"], ["sweep", "nowhere.yaml"], ["sweep", "."], ["sweep", "sweep.yaml", "--local", "--count=0"]),
    *(
        ["sweep", "sweep.yaml", "--local", "--count=-1"],
        ["sweep", "sweep.yaml", "--folder=x"],
        ["sweep", "picture.png"],
    ),
    *(["sweep", "sweep.yaml", "--local", "--folder=base.yaml"], ["sweep", "sweep.yaml", "--local", "--seed=x"]),
    *(
        ["benchmark", "data"],
        ["benchmark", "data", "--data=nowhere"],
        ["benchmark", "data", "--data=shapes.yaml", "--x=1"],
    ),
    *(
        ["benchmark", "ops", "--device=abacus"],
        ["benchmark", "ops", "--repeats=0"],
        ["benchmark", "ops", "--json=no/x"],
    ),
    *(
        ["doctor", "--all"],
        ["doctor", "now"],
        ["--version", "--debugg"][1:],
        ["validate"],
        ["test", "--config=base.yaml"],
    ),
    *([*FIT, "--config"], [*FIT, "--config=nowhere.yaml"], [*FIT, "--config=."], [*FIT, "--data=nowhere.yaml"]),
    *([*FIT, "--model="], [*FIT, "--data="], [*FIT, "--model.lr"], [*FIT, "--model.lr=fast"], [*FIT, "--trainer.x=1"]),
    *([*FIT, "extra"], [*FIT, "--ckpt_path=best"], [*FIT, "--ckpt_path=last"], [*FIT, "--ckpt_path=nowhere.ckpt"]),
    *(
        [*FIT, "--ckpt_path="],
        [*FIT, "--ckpt_path=set"],
        [*FIT, "--name=../../up"],
        [*FIT, "--name=a b"],
        [*FIT, "-h", "x"][:-2] + ["--h"],
    ),
    *(
        [*FIT, "--allow_classes"],
        [*FIT, "--allow_classes=;rm"],
        [*FIT, "--model.lr=1", "--model.lr=x"],
        [*FIT, "--data.root"],
    ),
    *(
        [*FIT, f"--data.root={'x/' * 3000}"],
        [*FIT, f"--name={'x' * 5000}"],
        [*FIT, "--data.root=\udcff"],
        [*FIT, "—lr=1"],
    ),
    *(["fit", "--data=shapes.yaml", "--model=shapes.yaml"], ["fit", "--data=model.yaml"], ["fit", "--data=base.yaml"]),
    *(
        ["fit", "--config=model.yaml", "--data=shapes.yaml"],
        ["fit", "--config=shapes.yaml"],
        ["fit", "--data=picture.png"],
    ),
    *(["validate", "--data=shapes.yaml", "--ckpt_path=last", "--name=none"], ["validate", "--data=shapes.yaml"]),
    *(
        [
            "test",
            "--data=shapes.yaml",
            f"--ckpt_path={CHECKPOINT}",
            "--submission=set",
            "--name=new",
            "--config=base.yaml",
        ],
    ),
    *(["test", "--data=shapes.yaml", f"--ckpt_path={CHECKPOINT}", "--data.test_split=none", "--config=base.yaml"],),
]


def lines() -> Iterator[Mutation]:
    for line in LINES:
        yield Mutation(" ".join(line)[:90].encode(errors="replace").decode(), lambda folder, rng, line=line: list(line))


# Where verbs write

WRITING = {
    "make-shapes": ["data", "make-shapes", "--output=out/new", "--train=9", "--val=3", "--size=64"],
    "browse": ["data", "browse", "shapes.yaml", "out/page.html", "--count=4"],
    "offsets": ["offsets", CHECKPOINT, "picture.png", "--output=out/new"],
    "export": ["export", CHECKPOINT, "--format=safetensors", "--output=out/new"],
    "evaluate": [*EVALUATE, "--json=out/numbers.json"],
    "data check": ["data", "check", "shapes.yaml", "--json=out/numbers.json"],
    "data stats": ["data", "stats", "shapes.yaml", "--json=out/numbers.json"],
    "fit": [*FIT, "--runs_dir=out"],
    "submission": [
        *("validate", "--config=base.yaml", "--data=shapes.yaml", f"--ckpt_path={CHECKPOINT}", "--name=new"),
        "--submission=out/new",
    ],
}


def _forbidden(folder: Path) -> None:
    (folder / "out").mkdir(mode=0o500)


def _file(folder: Path) -> None:
    (folder / "out").write_text("a file")


def _circle(folder: Path) -> None:
    (folder / "out").symlink_to("out")


def _gone(folder: Path) -> None:
    (folder / "out").symlink_to("gone/away")


TARGETS: dict[str, Callable[[Path], None]] = {
    "a folder one may not write to": _forbidden,
    "a file for a folder": _file,
    "a link to itself": _circle,
    "a link to nothing": _gone,
}


def targets() -> Iterator[Mutation]:
    for name, put in TARGETS.items():
        for verb, line in WRITING.items():
            if verb in ("make-shapes", "export", "offsets", "fit", "submission") and name == "a link to nothing":
                continue  # a folder is made where it leads to

            def make(folder: Path, rng: Random, put: Callable = put, line: list[str] = line) -> list[str]:
                put(folder)
                return line

            yield Mutation(f"{verb}: {name}", make, starts=verb == "submission")


def no_room() -> Iterator[Mutation]:
    """No file may be larger than some bytes, which fails as a full disk does."""
    for verb, line in WRITING.items():
        for size in (0, 500, 20_000) if verb in ("fit", "export", "offsets", "browse") else (0, 100):

            def make(folder: Path, rng: Random, line: list[str] = line) -> list[str]:
                (folder / "out").mkdir()
                return [word.replace("--runs_dir=out", "--runs_dir=runs") for word in line]

            yield Mutation(f"{verb}: {size} bytes", make, file_size=size, starts=verb in ("fit", "submission"))


def forbidden() -> Iterator[Mutation]:
    """What is to be read and may not be."""
    if not bound_by_permissions_here():
        return
    reading = {
        "set": ["data", "check", "shapes.yaml"],
        "set/JPEGImages": FIT,
        "set/ImageSets/Segmentation": FIT,
        "shapes.yaml": FIT,
        "model.yaml": FIT,
        "base.yaml": FIT,
        "sweep.yaml": ["sweep", "sweep.yaml", "--local", "--dry_run", "--count=1"],
        "picture.png": ["offsets", CHECKPOINT, "picture.png", "--output=out"],
        "runs/tried": ["validate", "--config=base.yaml", "--data=shapes.yaml", "--name=tried", "--ckpt_path=last"],
        "bad.ckpt": ["export", "bad.ckpt", "--format=safetensors", "--output=out"],
        "set/SegmentationClass": EVALUATE,
        "runs": FIT,
    }
    for name, line in reading.items():

        def make(folder: Path, rng: Random, name: str = name, line: list[str] = line) -> list[str]:
            if name == "bad.ckpt":
                shutil.copy(folder / CHECKPOINT, folder / name)
            (folder / name).chmod(0)
            return line

        yield Mutation(name, make, listed=True)


def bound_by_permissions_here() -> bool:
    """Whether a fork of this process can be bound by permissions: root has to give them up."""
    import os

    process = os.fork()
    if not process:
        os._exit(0 if bound_by_permissions() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


CATEGORIES = {
    "command lines": lines,
    "where nothing can be written": targets,
    "no room on the disk": no_room,
    "what may not be read": forbidden,
}
