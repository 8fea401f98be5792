"""Jobs as NodeODM's clients see them."""

from __future__ import annotations

import json
from pathlib import Path

from passel.server.jobs import CODES, Job, State

PASSELS_HEADER = "Passel-Reaches"
"""Of the answer to /info: identities of the Passels that a task given to this one may come to."""


def info_fields(job: Job, now_ms: int, output: list[str] | None = None) -> dict[str, object]:
    """The answer to /task/<uuid>/info. output: only when the client asked for it."""
    status: dict[str, object] = {"code": CODES[job.state]}
    if job.state is State.FAILED:
        status["errorMessage"] = job.error
    fields: dict[str, object] = {
        "uuid": job.uuid,
        "name": job.order.name,
        "dateCreated": job.order.created_ms,
        "processingTime": job.processing_time_ms(now_ms),
        "status": status,
        "options": [{"name": o.name, "value": o.value} for o in job.order.options],
        "imagesCount": job.images_count,
        "progress": round(job.progress, 2),
    }
    return fields if output is None else {**fields, "output": output}


def webhook_body(job: Job, now_ms: int, images_json: Path) -> str:
    """What a webhook is sent: the task's info, and what is known of its photos."""
    images: object = []
    try:
        if images_json.stat().st_size < 50_000_000:
            images = json.loads(images_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass  # a job that failed early has none
    return json.dumps({**info_fields(job, now_ms), "images": images})
