"""Logs: one line an event, JSON or plain, with the facts of `extra` beside a stable event name."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from runtime.settings import LogSettings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _to_json(line)


class PlainFormatter(logging.Formatter):
    """A line to read; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        extra = "".join(f" {key}={value}" for key, value in facts(record).items())
        line = f"{at} {record.levelname:<7} {record.name}: {record.getMessage()}{extra}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_to_json = json.JSONEncoder(default=str, ensure_ascii=False).encode


def configure(settings: LogSettings) -> None:
    """Logs of this process go to stderr; libraries speak from WARNING on."""
    # What no line of ours shows is not to be found out for each (logging's HOWTO, "Optimization").
    logging._srcfile = None  # pyright: ignore[reportAttributeAccessIssue,reportPrivateUsage]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonFormatter() if settings.llm_log_format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers = [out]
    root.setLevel(logging.WARNING)
    for ours in ("workers", "admin_api", "fleet", "runtime", "migrations"):
        logging.getLogger(ours).setLevel(settings.llm_log_level)
