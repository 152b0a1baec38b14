"""The study: what was planned is what is run and judged. Planted effects are found, planted nulls are not."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_study import tiny_preset

from microdlm.errors import UserError
from microdlm.runs import ROOT
from microdlm.training import Stopped, train
from study import analyse, grid, parts, report, runner
from study.grid import jobs

SIX = ("linear", "cosine", "loglinear", "sqrt", "clipped_cosine", "sigmoid")
TINY = tiny_preset(evals=2)


@pytest.fixture
def tiny(monkeypatch):
    """A preset of seconds, under the name of the smallest real one."""
    monkeypatch.setitem(grid.PRESETS, "nano", TINY)
    runner.text.cache_clear()
    yield jobs("nano", seeds=(0,))
    runner.text.cache_clear()


def planted(effects: dict, seeds=3, windows=200, run_noise=0.01, seed=0) -> analyse.Scores:
    """Scores as runs would leave them: windows of unequal difficulty, a shift for each seed, noise of each training,
    and beside that only the effects that are planted."""
    g = torch.Generator().manual_seed(seed)
    text, shift = 2 + torch.randn(windows, generator=g).double() / 5, torch.randn(seeds, 1, generator=g).double() / 20

    def scores(key):
        noise = torch.randn(seeds, 1, generator=g).double() * run_noise
        return effects.get(key, 0.0) + text + shift + noise + torch.randn(seeds, windows, generator=g).double() / 100

    return {(s, m): scores((s, m)) for m in ("uniform", "entropy") for s in SIX}


# ---- the grid ----


def test_a_grid_is_twelve_runs_a_seed_and_no_two_share_a_folder():
    for name, preset in grid.PRESETS.items():
        for which in grid.GRIDS:
            todo = jobs(name, which)
            assert len(todo) == 12 * len(preset.seeds) == len({job.folder(Path("out")) for job in todo})
            assert [job.seed for job in todo] == sorted(job.seed for job in todo)  # whole seeds, one after the other
    both = [job.folder(Path("out")) for which in grid.GRIDS for job in jobs("nano", which)]
    assert len(set(both)) == 72


def test_arms_differ_in_nothing_but_the_arm():
    for name in grid.PRESETS:
        assert len({replace(job.how, seed=0) for job in jobs(name)}) == 1


def test_the_large_preset_is_the_model_it_says():
    """12L/12H/768, vocabulary 50,258, 123.5M weights; the rate goes up for 2,000 steps and ends at a tenth."""
    from microdlm.training import learning_rate
    from microdlm.transformer import Transformer, TransformerConfig

    preset = grid.PRESETS["fineweb-124m"]
    with torch.device("meta"):
        model = Transformer(TransformerConfig(50_258, **preset.net))
    assert 123e6 < model.num_parameters() < 125e6
    assert learning_rate(1999, preset.how) == learning_rate(2000, preset.how) == 6e-4
    assert learning_rate(100_000, preset.how) == pytest.approx(6e-5)


@pytest.mark.parametrize("bad", [{"preset": "nanno"}, {"preset": "nano", "grid": "exakt"}])
def test_an_unknown_name_is_one_clear_line(bad):
    with pytest.raises(UserError, match="unknown") as refused:
        jobs(**bad)
    assert "\n" not in str(refused.value)


# ---- the analysis ----


def test_a_planted_difference_is_found_where_it_was_planted():
    effects = analyse.families(planted({("sqrt", "uniform"): 0.2, ("cosine", "entropy"): -0.2}))
    found = {(e.of, e.than): e.mean for family in effects.values() for e in family if e.found}
    assert found.keys() == {
        ("sqrt-uniform", "linear-uniform"),
        ("cosine-entropy", "linear-entropy"),
        ("sqrt-entropy", "sqrt-uniform"),  # the same two plants, seen from the other axis
        ("cosine-entropy", "cosine-uniform"),
    }
    json.dumps([vars(e) for family in effects.values() for e in family])  # nothing but plain numbers
    assert found["sqrt-uniform", "linear-uniform"] == pytest.approx(0.2, abs=0.04)
    assert found["cosine-entropy", "linear-entropy"] == pytest.approx(-0.2, abs=0.04)


def test_a_planted_null_is_not_found_more_often_than_promised():
    """Two families at 95 % each, and the floor on top: in 200 studies of nothing at most a tenth finds anything."""
    wrong = sum(any(e.found for f in analyse.families(planted({}, seed=s)).values() for e in f) for s in range(200))
    assert wrong <= 20


def told(effects: dict) -> dict:
    """A finding as `report.hypotheses` takes it."""
    families = {name: [vars(e) for e in of] for name, of in analyse.families(planted(effects)).items()}
    return {"grid": "exact", "seeds": [0, 1, 2], "effects": families}


def test_a_hypothesis_falls_by_what_was_planted_against_it():
    better, sqrt, masking = report.hypotheses(told({("cosine", "uniform"): -0.2}))
    assert "refuted by cosine-uniform." in better and "not found" in sqrt and "not contradicted" in masking
    better, sqrt, masking = report.hypotheses(told({("sqrt", "uniform"): 0.2, ("sqrt", "entropy"): 0.2}))
    assert "not contradicted" in better and "found with sqrt-uniform, sqrt-entropy." in sqrt
    lower = {(name, "entropy"): -0.2 for name in SIX}
    assert report.hypotheses(told(lower))[2].count("-entropy") == 6
    assert report.hypotheses(told({}) | {"seeds": [0]}) == []  # of one seed nothing can be said


def test_what_was_expected_of_the_published_grid_is_told_as_it_came():
    """Planted: own exams that rank as one network's, models that are equal; then another rank, and one model worse."""

    def told(own: dict[str, float], worse: str = "") -> list[str]:
        arms = [
            {"schedule": n, "masking": m, "own_exam": own[n] - 0.3 * (m == "clamped"), "nelbo": 1.0 + 0.01 * i}
            for m in ("uniform", "clamped")
            for i, n in enumerate(SIX)
        ]
        masking = [{"of": f"{n}-clamped", "mean": 0.2, "found": n == worse} for n in SIX]
        return report.hypotheses({"grid": "published", "seeds": [0, 1], "arms": arms, "effects": {"masking": masking}})

    own = dict(zip(report.EASIEST_FIRST, (2.0, 2.1, 2.31, 2.3, 2.4, 2.7), strict=True))  # two are equal, up to noise
    uniform, clamped, last = told(own)
    assert "do: yes. Between best and worst lie 0.700 nats of own exams and 0.050 of the common score" in uniform
    assert "do: yes" in clamped and "better by its own exam in 6 of 6; by the common score found worse in 0" in last
    uniform, _, last = told(own | {"sqrt": 1.9}, worse="cosine")
    assert "do: no, sqrt < clipped_cosine < cosine" in uniform and "found worse in 1" in last


def test_intervals_cover_together_what_was_planted():
    truth = {("sqrt", "uniform"): 0.03, ("sigmoid", "entropy"): -0.02}
    missed = 0
    for seed in range(200):
        effects = analyse.families(planted(truth, seed=seed))["proposal"]
        at = {e.of: truth.get(tuple(e.of.split("-")), 0.0) for e in effects}
        missed += any(not e.low <= at[e.of] <= e.high for e in effects if not e.of.startswith("loglinear"))
    assert 0 < missed <= 20  # 10 expected: neither too narrow nor so wide that they say nothing


def test_an_effect_below_the_noise_floor_is_not_found():
    """Consistent over seeds, and smaller than what two equal schedules differ by."""
    scores = planted({("loglinear", "uniform"): 0.3, ("cosine", "uniform"): 0.2}, run_noise=0.001)
    assert analyse.noise_floor(scores) > 0.25
    assert not next(e for e in analyse.families(scores)["proposal"] if e.of == "cosine-uniform").found


def test_one_seed_finds_nothing_and_says_what_is_left_open():
    for e in analyse.families(planted({("sqrt", "uniform"): 0.5}, seeds=1))["proposal"]:
        assert not e.found and e.own_low is None and e.words.startswith("not found")


def test_the_residual_is_that_of_a_two_way_table():
    """By least squares on indicators of arm and seed, an independent way to the same number."""
    scores = planted({("sqrt", "uniform"): 0.2}, seeds=4)
    y = torch.stack([s.mean(1) for s in scores.values()])
    rows, columns = torch.eye(12).repeat_interleave(4, 0), torch.eye(4).repeat(12, 1)
    X = torch.cat([rows, columns[:, 1:]], 1).double()
    left = y.flatten() - X @ torch.linalg.lstsq(X, y.flatten()[:, None]).solution[:, 0]
    sd, df = analyse.noise(scores)
    assert df == 48 - 15 and sd == pytest.approx((left.square().sum().item() / df) ** 0.5)


def test_the_figure_names_every_effect_rightly():
    """Both families on one axis of names: linear stands in one of them only."""
    from matplotlib.figure import Figure

    effects = analyse.families(planted({("sqrt", "uniform"): 0.2}))
    left, right = Figure().subplots(ncols=2, sharey=True)
    for ax, family in ((left, "proposal"), (right, "masking")):
        report.forest(ax, [vars(e) for e in effects[family]], 0.01, list(SIX))
    names = [label.get_text() for label in left.get_yticklabels()]
    for ax, family in ((left, "proposal"), (right, "masking")):
        drawn = {(names[round(y)], round(x, 6)) for line in ax.containers for x, y in [line.lines[0].get_xydata()[0]]}
        assert drawn == {(e.of.split("-")[0], round(e.mean, 6)) for e in effects[family]}


def test_pages_of_the_study_stay_short():
    import ast

    for path in (ROOT / "study").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 200, path.name
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        assert all(n.end_lineno - n.lineno < 50 for n in nodes), path.name


# ---- runs ----


def remains(folder: Path) -> dict:
    done = json.loads((folder / "done.json").read_text())
    records = [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {k: v for k, v in done.items() if k != "made_by"} | {"records": records}


@pytest.mark.parametrize("index", [0, 9])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tiny, tmp_path, index):
    job = tiny[index]
    list(runner.work(job, tmp_path / "never"))
    lost = runner.work(job, tmp_path / "lost")
    next(record for record in lost if record.step == 8)  # the last checkpoint is at 6
    lost.close()
    list(runner.work(job, tmp_path / "lost"))
    assert remains(job.folder(tmp_path / "lost")) == remains(job.folder(tmp_path / "never"))


def test_the_signal_of_a_cluster_saves_and_is_no_failure(tiny, tmp_path):
    job = tiny[0]
    with pytest.raises(Stopped):
        for record in runner.work(job, tmp_path / "cut"):
            if record.step == 5:
                signal.raise_signal(signal.SIGUSR1)
    assert not (job.folder(tmp_path / "cut") / "done.json").exists()
    assert [record.step for record in runner.work(job, tmp_path / "cut")] == list(range(6, 13))
    list(runner.work(job, tmp_path / "never"))
    assert remains(job.folder(tmp_path / "cut")) == remains(job.folder(tmp_path / "never"))


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_checkpoint_is_named_and_never_trained_on(tiny, tmp_path, keep):
    """However much of it is left: the run does not begin anew either, and its folder stays as it was."""
    lost = runner.work(tiny[0], tmp_path)
    next(record for record in lost if record.step == 8)
    lost.close()
    folder = tiny[0].folder(tmp_path)
    path = folder / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="checkpoint.safetensors is truncated") as refused:
        list(runner.work(tiny[0], tmp_path))
    assert "\n" not in str(refused.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_a_kill_9_left_half_written_is_swept_away(tiny, tmp_path):
    """A checkpoint of the large preset is 1.5 GB, and each kill could leave one."""
    lost = runner.work(tiny[0], tmp_path)
    next(record for record in lost if record.step == 8)
    lost.close()
    (tiny[0].folder(tmp_path) / ".checkpoint.safetensors.123.part").write_bytes(b"half")
    list(runner.work(tiny[0], tmp_path))
    assert not list(tiny[0].folder(tmp_path).glob(".*.part"))


def test_arms_of_one_seed_see_the_same_windows(tiny, tmp_path, monkeypatch):
    seen = []

    def spy(state, how, loss, batch, validate, run):
        seen.append([])
        watch = lambda *args: seen[-1].append(x := batch(*args)) or x  # noqa: E731
        yield from train(state, how, loss, watch, validate, run)

    monkeypatch.setattr(runner, "train", spy)
    for job in tiny[:2] + tiny[9:10]:
        list(runner.work(job, tmp_path))
    assert all(torch.equal(torch.stack(seen[0]), torch.stack(other)) for other in seen[1:])


def test_a_run_that_breaks_stands_in_the_table_with_its_reason(tiny, tmp_path, monkeypatch):
    results = tmp_path / "results"
    exact = parts.PARTS["exact"]
    for job in tiny:
        if job.arm.name == "sqrt-entropy":
            with monkeypatch.context() as m:
                m.setitem(parts.PARTS, "exact", lambda *a: exact(*a) * float("nan"))
                list(runner.work(job, tmp_path))
        elif job.arm.name != "sigmoid-entropy":
            list(runner.work(job, tmp_path))
    found = analyse.analysis("nano", "exact", (0,), tmp_path)
    assert len(found["arms"]) == 10
    assert "nan" in found["lost"]["sqrt-entropy-seed0"]
    assert found["lost"]["sigmoid-entropy-seed0"] == "not finished: 0 of 12 steps"
    page = report.write(found, results).read_text(encoding="utf-8")
    assert "sqrt-entropy-seed0" in page and "sigmoid-entropy-seed0" in page and "149.15" in page
    assert json.loads((results / "schedule_study_nano.json").read_text())["made_by"]["commit"]
    assert len(list((results / "figures").glob("*.png"))) == 2


def test_nothing_is_judged_without_the_pair_that_measures_the_noise(tmp_path):
    with pytest.raises(UserError, match="loglinear") as refused:
        analyse.analysis("nano", "exact", (0,), tmp_path)
    assert "\n" not in str(refused.value)


def test_the_score_of_the_own_process_agrees_with_the_common_one_under_uniform_masking(tiny, tmp_path):
    """Two estimators of one number: the bound in time and the bound in counts."""
    job = tiny[0]
    list(runner.work(job, tmp_path))
    done = json.loads((job.folder(tmp_path) / "done.json").read_text())
    assert abs(done["nelbo"] - done["own_bound"]) < 4 * (done["stderr"] ** 2 + done["own_bound_stderr"] ** 2) ** 0.5
    assert len(done["per_window"]) == 24


# ---- the command ----


def study(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "study", *argv], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_plan_names_every_run(tmp_path):
    done = study("plan", "--out", str(tmp_path))
    assert done.returncode == 0 and done.stdout.count("-seed") == 36


def test_what_cannot_be_done_is_one_line_and_exit_code_2(tmp_path):
    for argv in (["plan", "--preset", "nanno"], ["analyse", "--out", str(tmp_path)]):
        done = study(*argv)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
