"""What the explorables show of the measured numbers: results/*.json -> web/explore/data/*.json.

python web/explore/data.py             write them
python web/explore/data.py --check     exit with 1 if one of them is not what results/ says
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).resolve().with_name("data")
LENGTHS = (1, 4, 16, 64)  # the blocks of step 6


def read(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def spread(number: dict) -> dict:
    """Mean and standard deviation over the seeds of a step."""
    return {"mean": number["mean"], "sd": number["sd"]}


def curve() -> dict:
    """c_1 .. c_L of three denoisers, rounded: more digits than the errors have."""
    numbers = read("curve")
    found = {"from": "results/curve.json", "length": numbers["length"]}
    for name in ("transformer", "no context", "exact"):
        of = numbers[name]
        points = {key: [round(value, 6) for value in of[key]] for key in ("nats", "stderr")}
        found[name] = {"area": of["area"], "area_stderr": of["area_stderr"]} | points
    return found


def blocks() -> dict:
    numbers = read("steps")["steps"]["step6_blocks"]["numbers"]
    names = {"gpt": "a_GPT", "exact": "the_exact_value", "letters": "each_letter_alone"}
    lines = {name: spread(numbers[key]) for name, key in names.items()}
    lengths = {str(n): spread(numbers[f"block_{n}"]) for n in LENGTHS}
    return {"from": "results/steps.json", "lengths": lengths} | lines


def cost() -> dict:
    numbers = read("steps")["steps"]["step5_twins"]["numbers"]
    return {"from": "results/steps.json", "slower": spread(numbers["slower"])}


def files() -> dict[Path, str]:
    made = {"curve": curve(), "blocks": blocks(), "cost": cost()}
    return {OUT / f"{name}.json": json.dumps(data, ensure_ascii=False) + "\n" for name, data in made.items()}


def main() -> None:
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"not what results/ says: {names}; run python web/explore/data.py" if stale else 0)
    OUT.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(files()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
