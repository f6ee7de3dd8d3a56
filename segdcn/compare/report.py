"""What a comparison came to, section by section."""

import shlex
from collections.abc import Mapping, Sequence

from PIL import Image

from segdcn.compare import tables
from segdcn.compare.examples import Example
from segdcn.compare.pages import Section
from segdcn.compare.plan import Plan
from segdcn.compare.record import Record
from segdcn.compare.tables import Scores
from segdcn.pictures.comparison import example_picture, scores_picture

ALIKE = "Runs with the same seed start from the same weights, as far as the variants share them."
AT_ZERO = "All offsets start at zero, so that a deformable layer begins as the plain one."
PAIRED = "In percentage points. The difference of runs with the same seed says more than the difference of means."
SAME_DATA = "They see the same crops in the same order."
COST = (
    "Seconds are medians over the steps of a run, mean ± standard deviation over seeds: forward, backward and "
    "optimizer, without reading data; the ratio is taken within a seed. The runs were made one after the other: what "
    "else the machine did is in these figures, and only `segdcn benchmark train`, which takes turns, compares costs. "
    "Memory is the most that training needed at a time: of the whole process on a CPU, torch's on a GPU."
)
OFFSETS = (
    "Length of the offsets over a few validation images, in units of the layer's dilation: mean, and what 95 % stay "
    "below; the share of reads outside of the map; and the effective dilation (mean distance of neighbouring reads, in "
    "pixels of the layer's input) at the centres of objects by their size, and of background. Averaged over seeds."
)
SEVERAL = (
    "The interval holds the true mean with 95 % probability: one that does not hold 0 is a difference. Of many rows, "
    "one in twenty shows a difference where there is none. Seeds vary what is random in training, not the data set or "
    "the weights that an encoder begins with."
)


def sections(
    plan: Plan,
    records: Sequence[Record],
    failed: Mapping[str, str],
    examples: Sequence[Example],
    palette: Sequence[Sequence[int]],
    class_names: Sequence[str],
) -> list[Section]:
    """Put together everything that the finished runs tell.

    Args:
        plan: What is compared.
        records: Of the runs that are finished, at least one.
        failed: Runs that failed, with why.
        examples: Images to show.
        palette: Of the classes.
        class_names: Of the classes.
    """
    scores = Scores(plan, records)
    found = [
        Section("What was compared", _introduction(plan, records, failed)),
        Section("mIoU", [_about_miou(plan)], tables.miou_table(scores), {"mIoU by variant and seed": _chart(scores)}),
    ]
    if (differences := tables.difference_table(scores)).rows:
        found.append(Section("Paired differences in mIoU", _about_pairs(plan), differences))
    found += [
        Section("Other measures", [_about_measures(records[0])], tables.measure_table(scores)),
        Section("IoU of every class", ["In %, mean ± standard deviation over seeds."], tables.class_table(scores)),
        Section("Cost", [COST, *_about_machines(records)], tables.cost_table(scores)),
    ]
    if any(record.offsets for record in records):
        found.append(Section("Offsets", [f"{OFFSETS}{_about_sizes(plan)}"], tables.offset_table(scores)))
    if examples:
        pictures = {
            f"{example.name}: the variants differ on {example.differ:.1%} of the pixels": example_picture(
                example.image, example.labels, example.predictions, palette, class_names
            )
            for example in examples
        }
        text = f"The validation images on which the runs with seed {plan.seeds[0]} differ most."
        found.append(Section("Where the variants differ most", [text], pictures=pictures))
    text = "`settings` is the hash of all that a run was set to; weights lie below the folder of this report."
    found.append(Section("Runs", [text], tables.run_table(records)))
    return found


def _introduction(plan: Plan, records: Sequence[Record], failed: Mapping[str, str]) -> list[str]:
    first, data = records[0], records[0].results["data"]
    total = len(list(plan.jobs()))
    varied = ", ".join(dict.fromkeys(key for variant in plan.variants for key in variant.values))
    texts = [
        f"{len(plan.variants)} variants of one recipe, which differ in {varied}, with {len(plan.seeds)} "
        f"seed{'s' if len(plan.seeds) > 1 else ''} each: `segdcn fit {shlex.join(plan.fit)}`",
        f"Measured: the weights of the {plan.checkpoint} epoch, on {first.results['images']} images of the split "
        f"{data['split']} ({data['class'].rpartition('.')[2]}).",
    ]
    others = [variant.name for variant in plan.variants if not plan.starts_alike(variant)]
    if others:
        texts.append(
            f"{', '.join(others)}: other weights at the start than {plan.variants[0].name}, also with the same seed."
        )
    else:
        texts.append(ALIKE)
    moved = [name for name, start in plan.starts.items() if start.offsets_move]
    deformable = any(record.offsets for record in records)
    if moved or deformable:
        texts.append(f"Offsets do not start at zero in {', '.join(moved)}." if moved else AT_ZERO)
    if plan.checkpoint == "best":
        texts.append("The best epoch was chosen on the images that are measured here, so all scores are too high.")
    if len(records) < total:
        texts.append(f"Only {len(records)} of {total} runs are finished.")
    texts += [f"Failed: {name}: {reason}" for name, reason in failed.items()]
    return texts


def _about_miou(plan: Plan) -> str:
    if len(plan.seeds) == 1:
        return "In %. With one seed nothing says how far it varies."
    return "In %, mean ± standard deviation over seeds."


def _about_pairs(plan: Plan) -> list[str]:
    same_data = not any(key.startswith("data.") for variant in plan.variants for key in variant.values)
    texts = [f"{PAIRED} {SAME_DATA}" if same_data else PAIRED]
    return [*texts, SEVERAL] if len(plan.seeds) > 1 else texts


def _about_sizes(plan: Plan) -> str:
    limits = plan.settings[plan.variants[0].name].get("effective_dilation.sizes")
    return f" Objects: small below {limits[0]} pixels, large from {limits[1]} on." if limits else ""


def _about_measures(record: Record) -> str:
    objects, boundary = record.results.get("objects"), record.results.get("boundary")
    text = "In %, mean ± standard deviation over seeds; means over classes."
    if boundary:
        text += f" Boundary IoU counts pixels within {boundary['distance']:.0%} of the image's diagonal of an outline."
    if objects:
        small, large = objects["size_limits"]
        text += f" Objects are {objects['are']}: small below {small} pixels, large from {large} on."
    return text


def _about_machines(records: Sequence[Record]) -> list[str]:
    machines = list(dict.fromkeys(_machine(record) for record in records))
    if len(machines) > 1:
        return [f"The runs were made on different machines; their seconds cannot be compared: {'; '.join(machines)}."]
    return [f"Machine: {machines[0]}."]


def _machine(record: Record) -> str:
    device, machine = record.facts["device"], record.facts["machine"]
    return f"{machine if device == 'cpu' else f'{device}, {machine}'}, torch {record.facts['torch']}"


def _chart(scores: Scores) -> Image.Image:
    found = {variant: scores.spread(variant, tables.miou) for variant in scores.variants}
    return scores_picture(
        "mIoU in %",
        {name: {seed: 100 * value for seed, value in of.values.items()} for name, of in found.items() if of},
    )
