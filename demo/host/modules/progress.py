"""Which task is running, and how far it is."""

import base64
import collections
import dataclasses
import io
import time
import uuid

from fastapi import FastAPI
from pydantic import BaseModel

from modules import shared


@dataclasses.dataclass
class _Tasks:
    """Tasks by what has become of them. Only the last few that are done are remembered."""

    waiting: set = dataclasses.field(default_factory=set)
    running: str | None = None
    done: collections.deque = dataclasses.field(default_factory=lambda: collections.deque(maxlen=16))

    def wait(self, task):
        self.waiting.add(task)

    def start(self, task):
        self.waiting.discard(task)
        self.running = task

    def finish(self, task):
        self.running = None
        self.done.append(task)


tasks = _Tasks()


def create_task_id(task_type):
    return f"task({task_type}-{uuid.uuid4().hex[:8]})"


def share_done():
    """How much of the running job is done, 0 to 1: whole pictures, and steps of the present one."""
    state = shared.state
    if state.job_count <= 0:
        return 0.0
    steps = state.sampling_step / state.sampling_steps if state.sampling_steps else 0.0
    return min((state.job_no + steps) / state.job_count, 1.0)


def time_left(share):
    """Seconds to go if it continues like this; None as long as nothing is done."""
    elapsed = time.time() - (shared.state.time_start or time.time())
    return elapsed * (1 / share - 1) if share else None


class ProgressRequest(BaseModel):
    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True


def _preview(seen):
    """A picture of what is being made, if it is another than number ``seen``."""
    if not shared.opts.live_previews_enable:
        return {}
    shared.state.set_current_image()
    picture, number = shared.state.current_image, shared.state.id_live_preview
    if picture is None or number == seen:
        return {}
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"live_preview": f"data:image/png;base64,{data}", "id_live_preview": number}


def setup_progress_api(app: FastAPI):
    @app.post("/internal/progress")
    def internal_progress(req: ProgressRequest):
        task = req.id_task
        answer = {"active": task == tasks.running, "queued": task in tasks.waiting, "completed": task in tasks.done}
        if not answer["active"]:
            return answer | {"textinfo": "In queue" if answer["queued"] else "Waiting"}
        share = share_done()
        answer |= {"progress": share, "eta": time_left(share), "textinfo": shared.state.textinfo}
        return answer | (_preview(req.id_live_preview) if req.live_preview else {})
