"""Real runs of the program: its modes and their output."""

import json
import re
import shutil

import pytest

from tests import programs

STEPS = 2 * programs.STEPS_PER_EPOCH
METRICS = {"rsum"} | {
    f"{direction}_{name}"
    for direction in ("i2t", "t2i")
    for name in ("r1", "r5", "r10", "medr", "meanr")
}
TRAINING_CURVES = {
    "loss",
    "hard_share",
    "gap",
    "positive_similarity",
    "hardest_similarity",
    "gradient_norm",
    "gradient_norm_image",
    "gradient_norm_text",
    "learning_rate",
    "pairs_per_second",
    "host_wait",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return programs.playground(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def trained(place):
    """Workdir, output and report of a run."""
    workdir, finished = place.trained()
    report = json.loads((workdir / "eval" / "test.json").read_text())
    return workdir, finished, report


def test_prepare(place, tmp_path):
    finished = place.run(
        "--mode=prepare", f"--config.data.data_dir={tmp_path / 'data'}", cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    (folder,) = re.findall(r"^prepared: (.*)$", finished.stdout, re.MULTILINE)
    assert folder.startswith(str(tmp_path / "data"))
    assert any("train" in name for name in programs.files(tmp_path / "data"))
    assert not (tmp_path / "runs").exists()


def test_report_of_training(trained):
    workdir, _, report = trained
    assert set(report["metrics"]) == METRICS
    assert report["step"] in programs.checkpoint_steps(workdir)
    assert report["config"]["model"]["embed_dim"] == 16
    assert (report["split"], report["images"], report["captions"]) == ("test", 12, 60)
    recalls = [
        report["metrics"][f"{d}_r{k}"] for d in ("i2t", "t2i") for k in (1, 5, 10)
    ]
    assert report["metrics"]["rsum"] == pytest.approx(sum(recalls))


def test_best_checkpoint_is_reported(trained):
    workdir, _, report = trained
    rsum = programs.curves(workdir)["dev/rsum"]
    assert rsum[report["step"]] == max(rsum.values())


def test_table_on_standard_output(trained):
    workdir, finished, report = trained
    title, header, *rows = finished.stdout.strip().splitlines()
    assert title.startswith("test split, 12 images, 60 captions, checkpoint of step ")
    assert header.split() == ["R@1", "R@5", "R@10", "median", "mean"]
    for row, direction in zip(rows, ("i2t", "t2i"), strict=False):
        names = ("r1", "r5", "r10", "medr", "meanr")
        expected = [f"{report['metrics'][f'{direction}_{name}']:.1f}" for name in names]
        assert row.split()[-5:] == expected
    workdir = workdir.relative_to(workdir.parents[1])
    for line in (
        f"metrics:     {workdir}/eval/test.json",
        f"checkpoint:  {workdir}/checkpoints/{report['step']}",
        f"TensorBoard: tensorboard --logdir {workdir}",
        f"search:      python main.py --mode=search --workdir={workdir} ",
        f"page:        python main.py --mode=serve --workdir={workdir}",
    ):
        assert f"\n{line}" in finished.stdout


def test_line_per_interval(trained):
    _, finished, _ = trained
    line = re.compile(
        r"step (\d+)/50  epoch (\d\.\d\d)  loss \d\.\d{4}  hard-mined \d+%  "
        r"\d+ pairs/s  host wait \d+%  (?:\d:\d\d:\d\d|-) left$",
        re.MULTILINE,
    )
    found = line.findall(finished.stderr)
    assert [int(step) for step, _ in found] == list(range(1, STEPS + 1))
    assert [epoch for _, epoch in found] == [
        f"{step / programs.STEPS_PER_EPOCH:.2f}" for step in range(1, STEPS + 1)
    ]


def test_shares_of_time_at_the_end(trained):
    _, finished, _ = trained
    last = finished.stderr.splitlines()[-1]
    assert re.search(r"  time 0:\d\d:\d\d: steps \d+%, .*, start-up \d+%$", last), last
    assert sum(map(int, re.findall(r"(\d+)%", last))) == 100


def test_curves(trained):
    curves = programs.curves(trained[0])
    assert set(curves) == TRAINING_CURVES | {f"dev/{name}" for name in METRICS}
    for name, curve in curves.items():
        every = programs.STEPS_PER_EPOCH if name.startswith("dev/") else 1
        assert list(curve) == list(range(every, STEPS + 1, every)), name
    assert [*curves["learning_rate"].values()] == pytest.approx([5e-4] * STEPS)
    assert 0 < curves["loss"][STEPS] < 0.6


def test_eval_repeats_the_report_of_training(place, trained):
    workdir, _, report = trained
    path = workdir / "eval" / "test.json"
    path.unlink()
    finished = place.run("--mode=eval")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(path.read_text()) == report
    assert "rSum" in finished.stdout


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_hubness_is_corrected(place, trained, mode):
    """Also at the end of a training."""
    workdir, _, report = trained
    finished = place.run(f"--mode={mode}", "--config.evaluation.hubness=True")
    assert finished.returncode == 0, finished.stderr
    path = workdir / "eval" / "test.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(report))
    assert found["metrics"] == report["metrics"]
    assert set(found["hubness_metrics"]) == METRICS
    plain, corrected = finished.stdout.split("corrected for hubness with train")
    assert f"{found['metrics']['rsum']:.1f}" in plain
    assert f"{found['hubness_metrics']['rsum']:.1f}" in corrected


@pytest.mark.parametrize(
    ("mode", "flag", "modes"),
    [
        ("train", "--split=dev", "eval, report"),
        ("train", "--topology=v5e:2x4", "compile"),
        ("train", "--query=a dog", "search"),
        ("train", "--checkpoint=latest", "eval, report, encode, search, serve, export"),
        ("search", "--split=dev", "eval, report"),
        ("serve", "--top=3", "search"),
        ("eval", "--output=x.json", "compile, search, report, export"),
        ("eval", "--port=1", "serve"),
    ],
)
def test_flags_of_other_modes_are_refused(place, mode, flag, modes):
    name = flag.partition("=")[0]
    refused = place.run(f"--mode={mode}", flag)
    expected = f"error: {name} belongs to --mode={modes}, not to {mode}"
    assert programs.refusal(refused).startswith(expected)


def test_eval_without_config_of_a_split_and_a_checkpoint(place, trained):
    workdir, _, _ = trained
    finished = programs.run(
        "--mode=eval", f"--workdir={workdir}", "--split=dev", "--checkpoint=latest"
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads((workdir / "eval" / "dev.json").read_text())
    assert report["step"] == STEPS
    assert report["metrics"] == pytest.approx(
        {name: programs.curves(workdir)[f"dev/{name}"][STEPS] for name in METRICS}
    )


def test_finished_run_only_reports_again(place, trained):
    workdir, first, report = trained
    curves, steps = programs.curves(workdir), programs.checkpoint_steps(workdir)
    again = place.run()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert json.loads((workdir / "eval" / "test.json").read_text()) == report
    assert programs.curves(workdir) == curves
    assert programs.checkpoint_steps(workdir) == steps
    assert "loss" not in again.stderr


def test_more_epochs_continue_a_finished_run(place, trained):
    workdir = place.workdir("longer")
    shutil.copytree(trained[0], workdir)
    before = programs.curves(workdir)
    finished = place.run(f"--workdir={workdir}", "--config.epochs=3")
    assert finished.returncode == 0, finished.stderr
    assert f"resuming from the checkpoint of step {STEPS}" in finished.stderr
    after = programs.curves(workdir)
    assert list(after["loss"]) == list(range(1, 3 * programs.STEPS_PER_EPOCH + 1))
    for name, curve in before.items():
        assert curve.items() <= after[name].items(), name
    assert 3 * programs.STEPS_PER_EPOCH in programs.checkpoint_steps(workdir)


@pytest.mark.slow  # test_hosts.py trains with them on two hosts
def test_features_in_device_memory_make_the_same_run(place):
    """The option may change when a run is resumed."""
    reference, _ = place.trained(devices=2)
    workdir = place.workdir("resident")
    options = f"--workdir={workdir}", "--config.data.device_resident=True"
    first = place.run(*options, "--config.epochs=1", devices=2)
    assert first.returncode == 0, first.stderr
    assert "the features of 40 images are in the devices' memory" in first.stderr
    finished = place.run(f"--workdir={workdir}", devices=2)
    assert finished.returncode == 0, finished.stderr
    assert "memory" not in finished.stderr
    programs.assert_same_run(workdir, reference, STEPS)


def test_each_form_of_a_configuration_has_its_own_workdir(tmp_path):
    for form, expected in (("", "coco_vsepp"), (":features", "coco_vsepp_features")):
        config = programs.REPOSITORY / "configs" / "coco_vsepp.py"
        options = [f"--config={config}{form}", "--mode=eval"]
        refused = programs.refusal(programs.run(*options, cwd=tmp_path))
        assert refused.startswith(f"error: runs/{expected} has no checkpoint")
