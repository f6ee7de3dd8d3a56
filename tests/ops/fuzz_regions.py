"""Random RoI poolings against the float64 definition.

python tests/ops/fuzz_regions.py --count 1000 --seed 0 [--device cuda]

Cases take turns through the two operators and float64 and float32, with and without deterministic algorithms.
"""

import argparse
import sys

import torch
from geometry import relative_error
from regions import NAMES, draw

# float64: sums in another order. float32: a sample may round to the other side of the border, where its value jumps;
# so what is judged is that nine of ten cases have no such sample.
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-5}


def main() -> int:
    """Run the cases; exit 1 if a result is wrong."""
    parser = argparse.ArgumentParser(description="Random RoI poolings against the float64 definition.")
    parser.add_argument("--count", type=int, default=1000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="the first of their numbers")
    parser.add_argument("--device", default="cpu", help="where the operators run; the definition runs on the CPU")
    options = parser.parse_args()
    errors: dict[torch.dtype, list[tuple[float, int]]] = {dtype: [] for dtype in LIMITS}
    for number in range(options.seed, options.seed + options.count):
        dtype = list(LIMITS)[number // 2 % 2]
        torch.use_deterministic_algorithms(number // 4 % 2 == 1)
        case = draw(NAMES[number % 2], number).map(lambda t, dtype=dtype: t.to(dtype))
        got = case.map(lambda t: t.to(options.device)).gradients()
        torch.use_deterministic_algorithms(False)
        exact = case.map(torch.Tensor.double).gradients(exact=True)
        worst = max(
            relative_error(g.cpu(), e) if e.any() else float(g.abs().sum()) for g, e in zip(got, exact, strict=True)
        )
        errors[dtype].append((worst, number))
    wrong = [(e, n) for e, n in errors[torch.float64] if not e < LIMITS[torch.float64]]
    singles = sorted(errors[torch.float32])
    if singles and not singles[len(singles) * 9 // 10][0] < LIMITS[torch.float32]:
        wrong.append(singles[len(singles) * 9 // 10])
    for dtype, found in errors.items():
        found.sort()
        print(f"{dtype}: {len(found)} cases; error, case: median {found[len(found) // 2]}, worst {found[-1]}")
    for error, number in wrong:
        print(f"WRONG: case {number} is off by {error:.1e}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
