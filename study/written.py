"""The third table of the page: what `python -m study evaluate` has found, with its words."""

COLUMNS = {  # what `evaluate` has measured: its head, how it is printed
    "judge": ("judge", ".3f"),
    "entropy": ("entropy", ".2f"),
    "text_entropy": ("within a text", ".2f"),
    "lines_accepted": ("lines valid", ".1%"),
    "wikitext": ("WikiText-2, ≤", ".3f"),
    "mauve": ("MAUVE", ".3f"),
}


def samples(found: dict) -> list[str]:
    """The third table: what the runs write, beside held-out text."""
    shown = [name for name in COLUMNS if name in found["arms"][0]]
    page = [
        "## What they write",
        "",
        f"{found['texts']} texts of a whole window from every run: {found['sampler']}, {found['num_steps']} steps, "
        f"temperature {found['temperature']:g}, drawn in float64, with the same random numbers. Judge: "
        f"{found['judge']}, nats per token. Entropies in nats: of 4-grams of characters over all texts, and of tokens "
        "within a text. Close to held-out text is good; fewer nats at less entropy are not. ± is one standard error, "
        "over trainings where there are seeds. None of this was planned as a test: it describes.",
        "",
        "| proposal | masking | " + " | ".join(COLUMNS[name][0] for name in shown) + " |",
        "|---|---|" + "---:|" * len(shown),
    ]
    for row in ({"schedule": "held-out text", "masking": ""} | found["real_text"], *found["arms"]):
        page.append(f"| {row['schedule']} | {row['masking']} | " + " | ".join(cell(row, n) for n in shown) + " |")
    return [*page, "", *words_of_samples(found), ""]


def cell(row: dict, name: str) -> str:
    if name not in row:
        return ""
    value, error = row[name]["value"], row[name]["stderr"]
    return f"{value:{COLUMNS[name][1]}} ± {error:{COLUMNS[name][1]}}"


def words_of_samples(found: dict) -> list[str]:
    judge = {(a["schedule"], a["masking"]): a["judge"] for a in found["arms"]}
    values, real = [j["value"] for j in judge.values()], found["real_text"]["judge"]["value"]
    same = [
        abs(a - b)
        for (name, masking), j in judge.items()
        if name == "loglinear" and ("linear", masking) in judge
        for a, b in zip(j["seeds"], judge["linear", masking]["seeds"], strict=True)
    ]
    said = [
        f"* By the judge, the arms lie {min(values) - real:.2f} to {max(values) - real:.2f} nats above held-out text: "
        f"{max(values) - min(values):.2f} between best and worst"
        + (f", and up to {max(same):.2f} between linear and loglinear, which are equal." if same else ".")
    ]
    if (r := found["rank_correlation"]) is not None:
        said.append(
            f"* Rank correlation, over runs, of the bound and the judge's nats: {r:+.2f} (at +1, the better the "
            "bound, the likelier what is written)."
        )
    return said
