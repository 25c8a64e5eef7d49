"""Logs that cannot fill a disk."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from podwire.lab import keeper, logs


def test_a_long_log_loses_its_older_half(tmp_path: Path) -> None:
    log = logs.open_log(tmp_path / "log")
    os.write(log, b"".join(b"line %d\n" % number for number in range(100)))
    logs.cut(log, 400)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == "line 99"
    assert all(line.startswith("line ") for line in lines)
    assert 20 <= len(lines) <= 30
    os.write(log, b"more\n")
    os.close(log)
    assert (tmp_path / "log").read_text().endswith("line 99\nmore\n")


def test_a_short_log_and_a_pipe_are_left_alone(tmp_path: Path) -> None:
    log = logs.open_log(tmp_path / "log")
    os.write(log, b"short\n")
    logs.cut(log, 400)
    os.close(log)
    assert (tmp_path / "log").read_text() == "short\n"
    logs.cut(logs.open_log(Path("/nosuch/log")))


def test_a_daemon_logs_to_its_file_and_keeps_it_bounded(tmp_path: Path) -> None:
    def work() -> None:
        for number in range(30_000):
            logging.getLogger("room").info("message %d %s", number, "x" * 100)
        logging.getLogger("room").debug("unseen")
        sys.exit(3)

    log = logs.open_log(tmp_path / "log")
    pid = keeper.spawn("a test", work, log)
    os.close(log)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    text = (tmp_path / "log").read_text()
    assert logs.LIMIT // 2 - 4096 < len(text) <= logs.LIMIT
    assert " INFO room message 29999 " in text.splitlines()[-1]
