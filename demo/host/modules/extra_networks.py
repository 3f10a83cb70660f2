"""``<name:arguments>`` in prompts. The demo has no such networks: the words are taken out, and scripts are told."""

import re
from collections import defaultdict

from modules.util import record

ExtraNetworkParams = record("ExtraNetworkParams", "items")


def parse_prompts(prompts):
    """The prompts without such words, and {name: arguments} of the first prompt."""
    pattern, found = re.compile(r"<(\w+):([^>]+)>"), defaultdict(list)
    for name, arguments in pattern.findall(prompts[0]) if prompts else ():
        found[name].append(ExtraNetworkParams(arguments.split(":")))
    return [pattern.sub("", prompt) for prompt in prompts], found


def activate(p, extra_network_data):
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )  # fmt: skip
