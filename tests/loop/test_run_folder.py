"""A run's folder: never shared, never overwritten unasked, refused before anything is written."""

import functools
import json
import os
import shutil
import stat
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.loop import resumable_run
from tests.loop.test_metrics_log import Full
from trainkit.loop.checkpoint import Checkpointer
from trainkit.loop.run_folder import OWN, OutputError, RunFolder

CONFIG = {"lr": 0.1, "sizes": (3, 4), "where": Path("a")}


def claim(path, config=CONFIG, **options):
    RunFolder.claim(path, config, **options).close()


def contents(path):
    return sorted(entry.name for entry in path.iterdir())


def test_a_new_folder_is_made_with_its_config(tmp_path):
    with RunFolder.claim(tmp_path / "runs" / "one", CONFIG) as folder:
        saved = json.loads((folder.path / "config.json").read_text())
    assert saved == {"lr": 0.1, "sizes": [3, 4], "where": "a"}


def test_on_a_full_disk_the_note_that_a_checkpoint_was_saved_names_its_file(tmp_path):
    with RunFolder.claim(tmp_path, CONFIG) as folder:
        folder._lock = Full(folder._lock)
        with pytest.raises(OSError, match=r"the run ends here and can go on.*\.lock"):
            folder.saved()
    claim(tmp_path)


def test_the_same_config_takes_the_run_up_again(tmp_path):
    claim(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("kept")
    claim(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"


def test_another_config_is_refused_with_what_differs_and_what_mends_it(tmp_path):
    claim(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(OutputError) as error:
        claim(tmp_path, {"lr": 0.2, "sizes": [3, 4], "new": None})
    message = str(error.value)
    assert "lr: 0.1 there, 0.2 now" in message
    assert 'where: "a" there, nothing now' in message
    assert "new: nothing there, null now" in message
    assert "sizes" not in message
    assert "out=" in message
    assert "overwrite=True" in message
    assert 'resume="new hyperparameters"' in message
    assert (tmp_path / "config.json").read_bytes() == before


LONG = np.arange(5000.0)
OTHER = LONG.copy()
OTHER[2500] = 0


@pytest.mark.parametrize(
    ("then", "now"),
    [(LONG, OTHER), (True, 1), ({1, 2}, {1, 3}), (np.square, np.sqrt), (1, "1"), (Path("a"), None),
     (jnp.ones(3), np.ones(3)), (functools.partial(max, 1), functools.partial(max, 2))],
)  # fmt: skip
def test_what_differs_is_another_run(tmp_path, then, now):
    claim(tmp_path, {"a": then})
    claim(tmp_path, {"a": then})
    with pytest.raises(OutputError, match="another configuration"):
        claim(tmp_path, {"a": now})


@pytest.mark.parametrize(
    ("then", "now"),
    [(1, 1.0), ((1, 2), [1, 2]), (np.float32(0.5), 0.5), (float("nan"), float("nan")),
     (LONG, LONG.copy()), ({"b", "a", "c"}, {"c", "b", "a"}), ({"x": 1, "y": 2}, {"y": 2, "x": 1})],
)  # fmt: skip
def test_what_is_the_same_is_the_same_run(tmp_path, then, now):
    claim(tmp_path, {"a": then})
    claim(tmp_path, {"a": now})


@pytest.mark.parametrize("value", [lambda: 0, object()], ids=["lambda", "object"])
def test_what_would_be_another_in_the_next_process_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match=r"config\['a'\]\['b'\] is <.*differ in another process"):
        claim(tmp_path / "run", {"a": {"b": value}})
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_through_a_link_that_somebody_planted(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "run"
    claim(folder, {"placement": "single"})
    planted = [name for name in OWN if name != "config.json"]
    for name in planted:
        (folder / name).symlink_to(victim)
    resumable_run.run(folder, steps=8, report=True)
    assert victim.read_text() == "precious"
    written = {name for name in planted if not (folder / name).is_symlink()}
    written = {name for name in written if (folder / name).exists()}
    assert written == {"metrics.jsonl", "metrics.csv", "summary.json", "report.html"}


@pytest.mark.parametrize("name", [".lock", "checkpoints", "tensorboard"])
def test_a_link_in_place_of_the_lock_or_a_folder_is_refused_by_name(tmp_path, name):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    claim(folder)
    elsewhere.mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere / "file" if name == ".lock" else elsewhere)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=rf"run/{name} is a link.*as out="):
            claim(folder, overwrite=overwrite)
    assert contents(elsewhere) == []


@pytest.mark.parametrize("damage", ["", "{", '{"lr": 0.2}', b"\xff", None])
def test_what_a_run_is_is_known_from_its_checkpoints_where_its_config_is_damaged(tmp_path, damage):
    def harm():
        if damage is None:
            (tmp_path / "config.json").unlink(missing_ok=True)
        else:
            content = damage if isinstance(damage, bytes) else damage.encode()
            (tmp_path / "config.json").write_bytes(content)

    with RunFolder.claim(tmp_path, CONFIG) as folder:
        with Checkpointer(tmp_path / "checkpoints") as checkpoints:
            checkpoints.save(1, {"w": np.ones(2)}, info={"config": folder.config})
        expected = folder.config
    harm()
    claim(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == expected
    harm()
    with pytest.raises(OutputError, match=r"lr: 0\.1 there, 0\.3 now"):
        claim(tmp_path, {"lr": 0.3, "sizes": [3, 4], "where": "a"})
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "summary.json").touch()
    harm()
    with pytest.raises(OutputError, match=r"another configuration|not a run's"):
        claim(tmp_path)


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    claim(tmp_path)
    for name in ("metrics.jsonl", "metrics.csv", "summary.json", "report.html", "my notes.txt"):
        (tmp_path / name).write_text("old")
    for name in ("checkpoints", "tensorboard", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    claim(tmp_path, {"lr": 0.2}, overwrite=True)
    assert contents(tmp_path) == [".lock", "config.json", "mine", "my notes.txt"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"lr": 0.2}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"not a run's \(thesis\.tex\)"):
        claim(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file; give another folder as out="):
        claim(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot be written .*file is a file"):
        claim(tmp_path / "file" / "run")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # As the administrator, for whom no permission is missing, only the answer can be arranged.
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    for path in (locked, locked / "run"):
        with pytest.raises(OutputError, match=r"cannot be written .*no permission.*out="):
            claim(path)
    assert contents(locked) == []


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        RunFolder.claim(tmp_path, CONFIG),
        pytest.raises(OutputError, match="Another process is training in"),
    ):
        RunFolder.claim(tmp_path, CONFIG)
    claim(tmp_path)  # free again


def test_checking_writes_nothing(tmp_path):
    RunFolder.check(tmp_path / "new", CONFIG)
    assert contents(tmp_path) == []


def test_it_can_be_caught_as_either_kind_of_error(tmp_path):
    (tmp_path / "file").touch()
    for kind in (OSError, ValueError):
        with pytest.raises(kind):
            claim(tmp_path / "file")
