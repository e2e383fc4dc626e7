"""Progress of a build: nested phases as one number that never goes back."""

from types import SimpleNamespace

from builders.tensorrt.monitor import PhaseTree, file_logger, progress_monitor


def test_nested_phases_are_one_growing_number():
    shown: list[int] = []
    tree = PhaseTree(lambda done, total: shown.append(done))
    tree.start("build", None, 2)
    for part in ("clone", "optimise"):
        tree.start(part, "build", 4)
        for _ in range(4):
            tree.start("inner", part, 2)
            tree.step("inner")
            tree.finish("inner")
            tree.step(part)
        tree.finish(part)
        tree.step("build")
    tree.finish("build")
    tree.step("a phase that nobody started")
    assert shown == sorted(set(shown))
    assert shown[0] == 6 and shown[-1] == 100 and 50 in shown


def test_the_monitor_never_stops_a_build():
    shown: list[tuple[int, int]] = []
    trt = SimpleNamespace(IProgressMonitor=type("Base", (), {"__init__": lambda self: None}))
    monitor = progress_monitor(trt, lambda *step: shown.append(step))
    monitor.phase_start("build", None, 1)
    assert monitor.step_complete("build", 0)
    monitor.phase_finish("build")
    assert shown == [(100, 100)]


def test_the_log_is_whole_when_the_process_dies(tmp_path):
    severity = SimpleNamespace(INFO=3)
    base = type("Base", (), {"__init__": lambda self: None, "Severity": severity})
    logger = file_logger(SimpleNamespace(ILogger=base), tmp_path / "build.log")

    class Level(int):
        name = "ERROR"

    logger.log(Level(1), "first")
    logger.log(Level(4), "chatter")
    assert (tmp_path / "build.log").read_text() == "ERROR: first\n"  # nothing is flushed by hand
