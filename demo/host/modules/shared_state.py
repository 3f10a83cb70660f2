"""What the host is doing at the moment."""

import time

from modules import errors, shared

# What a new job finds. The API tells the first nine.
_FRESH = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
    "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
    "processing_has_refined_job_count": False, "current_latent": None, "current_image": None,
    "current_image_sampling_step": 0, "id_live_preview": 0, "textinfo": None, "time_start": None,
}  # fmt: skip
_TOLD = list(_FRESH)[:9]


class State:
    def __init__(self):
        self.server_start = time.time()
        vars(self).update(_FRESH)

    def begin(self, job="(unknown)"):
        now = time.time()
        stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(now))
        vars(self).update(_FRESH, job=job, job_count=-1, job_timestamp=stamp, time_start=now)  # count not known yet

    def end(self):
        self.job, self.job_count = "", 0
        self.skipped = self.interrupted = self.stopping_generation = False

    def skip(self):
        self.skipped = True

    def interrupt(self):
        self.interrupted = True

    def stop_generating(self):
        self.stopping_generation = True

    def nextjob(self):
        """The next of ``job_count`` passes begins."""
        self.job_no, self.sampling_step, self.current_image_sampling_step = self.job_no + 1, 0, 0

    def dict(self):
        return {name: getattr(self, name) for name in _TOLD}

    def set_current_image(self):
        """Renew the preview, as often as the settings want it."""
        steps = self.sampling_step - self.current_image_sampling_step
        if shared.opts.live_previews_enable and steps >= shared.opts.show_progress_every_n_steps:
            self.do_set_current_image()

    def do_set_current_image(self):
        from modules import sd_samplers_common

        latent = self.current_latent
        if latent is not None:
            try:  # the latent may be replaced meanwhile, or be another checkpoint's
                self.assign_current_image(sd_samplers_common.preview(latent[0]))
            except Exception:
                errors.report("No preview", exc_info=True)
            self.current_image_sampling_step = self.sampling_step

    def assign_current_image(self, image):
        self.current_image = image
        self.id_live_preview += 1
