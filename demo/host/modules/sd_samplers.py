"""The list of samplers, and which of them a request means."""

from modules import sd_samplers_kdiffusion, sd_samplers_timesteps

all_samplers = [*sd_samplers_kdiffusion.SAMPLERS, *sd_samplers_timesteps.SAMPLERS]
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}
samplers = samplers_for_img2img = all_samplers
SCHEDULES = ["Automatic", "Uniform", "Karras"]


def find_sampler_config(name):
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name, model):
    config = find_sampler_config(name)
    if config is None:
        raise ValueError(f"there is no sampler {name!r}")
    return config.constructor(model, config)


def total_steps(name, steps):
    """Calls of the model that a sampler announces for so many steps."""
    config = find_sampler_config(name)
    return config.total_steps(steps) if config else steps


def get_sampler_and_scheduler(sampler_name, scheduler_name, *, convert_automatic=True):
    """Names that exist, for what was asked: "DPM++ 2M Karras" is a sampler and a schedule."""
    schedules = {schedule.lower(): schedule for schedule in SCHEDULES}
    schedule = schedules.get((scheduler_name or "").lower(), SCHEDULES[0])
    words, _, last = (sampler_name or "").rpartition(" ")
    if last.lower() in schedules:
        sampler_name, schedule = words, schedules[last.lower()]
    sampler = all_samplers_map.get(sampler_name, all_samplers[0])
    if convert_automatic and schedule == sampler.options.get("scheduler"):
        schedule = SCHEDULES[0]
    return sampler.name, schedule


def fix_p_invalid_sampler_and_scheduler(p):
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(p.sampler_name, p.scheduler, convert_automatic=False)
