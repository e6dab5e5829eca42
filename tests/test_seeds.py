"""Several seeds of a configuration: real runs of main.py."""

import json
import pathlib
import re
import shutil
import signal
import statistics
import types

import jax
import pytest

from tests import programs, saved_runs
from tests.run_report import page_reader
from tests.test_checkpoint import make_state
from vse_jax import seeds, train
from vse_jax.checkpoint import Checkpoints
from vse_jax.errors import InputError
from vse_jax.evaluate import OpenRun
from vse_jax.run_config import check_same_but_seed
from vse_jax.seed_workdirs import Seed, of_workdir

STEPS = 2 * programs.STEPS_PER_EPOCH
METRICS = ("r1", "r5", "r10", "medr", "meanr")


def folder(workdir, number):
    return pathlib.Path(of_workdir(str(workdir), [number])[0].workdir)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def trained(place):
    """Seeds 1 and 0: killed, then stopped in the second, by the same command."""
    workdir = place.workdir("seeds")
    options = f"--workdir={workdir}", "--seeds=1,0"
    process = place.start(*options)
    assert any("seed 0 (2 of 2)" in line for line in process.stderr)
    killed = programs.stop_after(process, "step 7/", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    process = place.start(*options)
    assert any("seed 0 (2 of 2)" in line for line in process.stderr)
    stopped = programs.stop_after(process, "step 12/", signal.SIGTERM)
    assert stopped.returncode == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "mean of" not in stopped.stdout
    finished = place.run(*options)
    assert finished.returncode == 0, finished.stderr
    return workdir, finished


def test_finished_seed_is_not_trained_again(trained):
    _, finished = trained
    first, second = finished.stderr.split("seed 0 (2 of 2)")
    assert "seed 1 (1 of 2)" in first
    assert "loss" not in first
    assert "resuming from the checkpoint of step" in second


def test_seed_is_the_run_that_its_option_makes(place, trained):
    """It was trained after another one, in one process."""
    reference, _ = place.trained()
    programs.assert_same_run(folder(trained[0], 0), reference, STEPS)


def test_summary(trained):
    workdir, finished = trained
    summary = json.loads((workdir.parent / "seeds_seeds_test.json").read_text())
    reports = {
        number: json.loads(
            (workdir.parent / f"seeds_seed{number}" / "eval" / "test.json").read_text()
        )
        for number in (1, 0)
    }
    assert summary["seeds"] == [1, 0]
    assert "seed" not in summary["config"]
    assert (summary["split"], summary["images"], summary["captions"]) == (
        "test",
        12,
        60,
    )
    for name in reports[0]["metrics"]:
        values = [report["metrics"][name] for report in reports.values()]
        mean = summary["mean"]["metrics"][name]
        deviation = summary["standard_deviation"]["metrics"][name]
        assert mean == pytest.approx(statistics.mean(values))
        assert deviation == pytest.approx(statistics.stdev(values))
    of_run = [(run["seed"], run["step"], run["metrics"]) for run in summary["runs"]]
    assert of_run == [(n, r["step"], r["metrics"]) for n, r in reports.items()]
    rsum = summary["mean"]["metrics"]["rsum"]
    deviation = summary["standard_deviation"]["metrics"]["rsum"]
    assert re.search(rf"^rSum +{rsum:.1f} ± *{deviation:.1f}$", finished.stdout, re.M)
    assert "mean of 2 seeds and sample standard deviation (n - 1)" in finished.stdout
    assert f"summary:     {workdir}_seeds_test.json" in finished.stdout


def test_seeds_are_evaluated(trained, tmp_path):
    workdir, _ = trained
    path = tmp_path / "dev.json"
    finished = programs.run(
        "--mode=eval",
        f"--workdir={workdir}/",
        "--seeds=0,1",
        "--split=dev",
        f"--output={path}",
    )
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(path.read_text())
    for run in summary["runs"]:
        path = folder(workdir, run["seed"]) / "eval" / "dev.json"
        report = json.loads(path.read_text())
        assert report["metrics"] == run["metrics"]
        assert f"seed {run['seed']}:      rSum {run['metrics']['rsum']:.1f}, " in (
            finished.stdout
        )
    assert "has not finished" not in finished.stderr


def test_report_of_seeds(trained):
    workdir, _ = trained
    finished = programs.run("--mode=report", f"--workdir={workdir}", "--seeds=1,0")
    assert finished.returncode == 0, finished.stderr
    path = folder(workdir, 1) / "eval" / "test-runs.html"
    assert "mean of 2 seeds" in page_reader.read(path.read_text()).words


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--seeds=0"], "--seeds is '0'; expected at least two different seeds"),
        (["--seeds=1,0,01"], "expected at least two different seeds"),
        (["--seeds=0,1.5"], "--seeds is '0,1.5'; expected whole numbers"),
        (["--seeds=0,-1"], "--seeds is '0,-1'; expected whole numbers"),
        (["--seeds="], "expected at least two different seeds"),
        (["--seeds=0,1", "--config.seed=3"], "leave out --config.seed"),
        (["--seeds=0,1", "--mode=extract"], "belongs to --mode=train, eval, report"),
        (
            ["--seeds=0,1", "--mode=eval", "--ensemble=runs/a,runs/b"],
            "both name runs; leave out one",
        ),
        (["--seeds=0,7", "--mode=eval"], "seeds_seed7 has no checkpoint"),
        (
            ["--seeds=0,1", "--config.batch_size=4"],
            "seeds_seed0 has a run with another configuration (config.batch_size was 8 "
            "and is now 4)",
        ),
    ],
)
def test_refused(place, trained, options, expected):
    workdir, _ = trained
    given = [] if "--ensemble" in str(options) else [f"--workdir={workdir}"]
    assert expected in programs.refusal(place.run(*given, *options))


def test_last_workdir_is_checked_before_the_first_training(place, trained, tmp_path):
    shutil.copytree(folder(trained[0], 0), tmp_path / "runs" / "other_seed5")
    workdir = tmp_path / "runs" / "other"
    refused = place.run(f"--workdir={workdir}", "--seeds=4,5")
    assert (
        f"{workdir}_seed5 has a run with another configuration (config.seed was 0 and "
        "is now 5)" in programs.refusal(refused)
    )
    assert not folder(workdir, 4).exists()


def description(**options):
    config = saved_runs.of_scenes("data")
    config.update(options)
    return {"config": json.loads(config.to_json()), "dataset": {"splits": "digest"}}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            description(seed=1, batch_size=4),
            "b has a run with another configuration than a (config.batch_size is 4 "
            "instead of 8); name seeds of one configuration",
        ),
        (
            description(seed=1) | {"dataset": {"splits": "other"}},
            "b was trained on other data than a; train all seeds on the same",
        ),
    ],
)
def test_runs_that_are_no_seeds_are_refused(other, expected):
    with pytest.raises(InputError) as error:
        check_same_but_seed({"a": description(seed=0), "b": other})
    assert str(error.value) == expected
    check_same_but_seed({"a": description(seed=0), "b": description(seed=1)})


def test_runs_with_other_options_of_evaluation_have_no_mean(trained, tmp_path):
    workdir = tmp_path / "runs" / "folds"
    for number in (0, 1):
        shutil.copytree(folder(trained[0], number), folder(workdir, number))
    for path in folder(workdir, 1).glob("checkpoints/*/run/metadata"):
        run = json.loads(path.read_text())
        run["config"]["data"]["folds"] = 2
        path.write_text(json.dumps(run))
    seeds = [f"--workdir={workdir}", "--mode=eval", "--seeds=0,1"]
    refused = programs.run(*seeds)
    assert (
        f"config.data.folds is 0 in {workdir}_seed0 and 2 in {workdir}_seed1; set it "
        "for all, such as by --config.data.folds=0" in programs.refusal(refused)
    )
    assert programs.run(*seeds, "--config.data.folds=2").returncode == 0


def test_folds_suites_and_corrected_metrics_have_means_too():
    def report(value):
        names = "map_at_r", "rprecision", "r1", "queries"
        of_suite = {f"{d}_{n}": value for d in ("i2t", "t2i") for n in names}
        metrics = {f"{d}_{n}": value for d in ("i2t", "t2i") for n in METRICS}
        metrics["rsum"] = 6 * value
        groups = ("metrics", "fold_metrics", "hubness_metrics", "hubness_fold_metrics")
        of_split = {"split": "testall", "images": 5000, "captions": 25_000, "folds": 5}
        others = {"eccv_metrics": of_suite, "step": 3, "config": {}}
        return of_split | dict.fromkeys(groups, metrics) | others

    summary = seeds.summarize(
        [Seed(0, "a"), Seed(1, "b")], [report(50.0), report(56.0)]
    )
    text = seeds.format_summary(summary)
    assert text.count("rSum            318.0 ± 25.5") == 4
    assert "\nmean of 5 folds\n" in text
    assert "\ncorrected for hubness, mean of 5 folds\n" in text
    of_suite = text.split("\nECCV Caption, means\n")[1]
    assert of_suite.count("   53.0    53.0   53.0       53") == 2
    assert summary["standard_deviation"]["eccv_metrics"]["i2t_r1"] == pytest.approx(
        3 * 2**0.5
    )
    assert max(map(len, text.splitlines())) < 110


@pytest.mark.usefixtures("quick_compilation")
def test_devices_hold_nothing_of_an_earlier_seed(shapes_builder, tmp_path, monkeypatch):
    config = saved_runs.of_scenes(shapes_builder.data_dir.rpartition("/shapes")[0])
    config.epochs = 1
    config.model.text_encoder = "gru"
    held = []
    train_one = train.train_and_evaluate

    def counted(*args):
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return train_one(*args)

    monkeypatch.setattr(train, "train_and_evaluate", counted)
    assert seeds.train_and_evaluate(config, str(tmp_path / "run"), [0, 1])
    assert held[1] - held[0] < 1000


@pytest.mark.parametrize(
    ("saved", "digest", "warned"),
    [(True, "a", True), (True, "other data", False), (False, "a", False)],
)
def test_unfinished_run_is_told_from_an_export_and_from_other_data(
    config, tmp_path, monkeypatch, caplog, saved, digest, warned
):
    monkeypatch.setattr(seeds.input_pipeline, "steps_per_epoch", lambda *_: 4)
    if saved:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(make_state(7), {})
        checkpoints.close()
    identity = types.SimpleNamespace(digest=digest)
    experiment = types.SimpleNamespace(config=config, builder=None, identity=identity)
    restored = types.SimpleNamespace(run={"dataset": {"digest": "a"}})
    seeds._warn_if_unfinished(OpenRun(str(tmp_path), experiment, restored, "test"))
    message = f"{tmp_path} has not finished training: step 7 of {4 * config.epochs}"
    assert (message in caplog.messages) == warned
