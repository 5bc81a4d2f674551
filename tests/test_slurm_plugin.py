"""What Snakemake's plugin for SLURM is told of its jobs; tests/slurm shows the same on a real cluster."""

import asyncio
import math
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from commands import Commands
from intaglio.cluster.plugin import complete_plugin, fails_again, limits, within_limit


class Executor:
    """As the plugin's, as far as it is completed."""

    reported: list[Any]

    def report_job_error(self, job_info: Any, msg: str = "") -> None:
        self.reported = [job_info.job.attempt, msg]


def plugin(states: dict[str, str] | None) -> Any:
    async def query(*_: Any) -> Any:
        return states, 0.1

    def command(job: Any, params: Any) -> str:
        return f"sbatch -t {job} -p {params}"

    module = SimpleNamespace(
        query_job_status=query, get_submit_command=command, Executor=type("Executor", (Executor,), {})
    )
    complete_plugin(module)  # type: ignore[arg-type]
    return module


def states_of(module: Any) -> Any:
    return asyncio.run(module.query_job_status("command", "logger"))[0]


def test_the_plugin_is_the_one_that_is_completed() -> None:
    """With another version: see whether it still needs what intaglio.cluster.plugin adds, and takes it."""
    assert version("snakemake-executor-plugin-slurm").startswith("2.8.")
    import snakemake_executor_plugin_slurm as real

    assert callable(real.query_job_status) and callable(real.get_submit_command)
    assert callable(real.Executor.report_job_error)


def test_states_in_words_that_the_plugin_knows() -> None:
    module = plugin({"1": "CANCELLED by 0", "2": "RUNNING", "3": "COMPLETED", "4": "TIMEOUT"})
    assert states_of(module) == {"1": "CANCELLED", "2": "RUNNING", "3": "COMPLETED", "4": "TIMEOUT"}
    assert states_of(plugin(None)) is None


def test_a_preempted_job_returns_to_the_queue(commands: Commands) -> None:
    module = plugin({"1": "PREEMPTED", "2": "NODE_FAIL", "3": "RUNNING"})
    # SLURM starts the first again by itself, the second not.
    commands.add("squeue", "1 1\n")
    commands.add("scontrol")
    assert states_of(module) == {"1": "REQUEUED", "2": "REQUEUED", "3": "RUNNING"}
    assert commands.calls("scontrol") == ["requeue 2"]
    # If the queue cannot be asked, it is the next time.
    commands.add("squeue", status=1)
    assert states_of(module)["1"] == "REQUEUED"
    # One that cannot return has failed, and is not tried again when Snakemake has submitted it anew.
    commands.add("squeue")
    commands.add("scontrol", status=1)
    assert states_of(module) == {"1": "FAILED", "2": "FAILED", "3": "RUNNING"}
    calls = len(commands.calls("scontrol"))
    assert states_of(module)["1"] == "FAILED" and len(commands.calls("scontrol")) == calls


def test_no_more_time_than_the_partition_gives(commands: Commands) -> None:
    limits.cache_clear()
    commands.add("sinfo", "short*|1:00:00\nlong|2-00:00:00\nopen|infinite\n")
    assert limits() == {"short": 60, "": 60, "long": 2880, "open": math.inf}
    asked = plugin(None).get_submit_command
    try:
        assert asked(240, "short") == "sbatch -t 60 -p short"
        assert asked(240, "long") == "sbatch -t 240 -p long"
        assert asked(9999, "long,short") == "sbatch -t 60 -p long,short"
        assert asked(9999, "open") == "sbatch -t 9999 -p open"
        assert asked(9999, "unknown") == "sbatch -t 9999 -p unknown"
        assert len(commands.calls("sinfo")) == 1
        assert within_limit("sbatch -t 240 --mem 1", limits()) == "sbatch -t 60 --mem 1"
        assert within_limit("sbatch --mem 1", limits()) == "sbatch --mem 1"
    finally:
        limits.cache_clear()


def test_what_will_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = plugin(None).Executor()
    for text, attempt in (
        ("step 1\nintaglio finetune: the loss became nan at step 3\n", 3),
        ("Traceback:\nOSError: [Errno 5] Input/output error\n", 1),
        ("Killed\n", 1),
    ):
        log.write_text(text)
        assert fails_again([str(log)], 0) is (attempt == 3)
        assert not fails_again([str(log)], time.time() + 60), "of an earlier run"
        job = SimpleNamespace(is_group=lambda: False, log=[str(log)], restart_times=2, attempt=1)
        executor.report_job_error(SimpleNamespace(job=job), msg="said")
        # Snakemake tries again as long as restart_times > attempt - 1.
        assert executor.reported == [attempt, "said"]
    assert not fails_again([str(tmp_path / "none")], 0)
