"""Settings: what can be set, and the values that the settings file or a request gave."""

import json
from pathlib import Path

from modules import errors


class OptionInfo:
    """One setting: its default, how it is shown, and what it does when it changes. The methods below return it."""

    def __init__(
        self,
        default=None,
        label="",
        component=None,
        component_args=None,
        onchange=None,
        section=None,
        refresh=None,
        comment_before="",
        comment_after="",
        infotext=None,
        restrict_api=False,
        category_id=None,
    ):
        given = dict(locals())
        del given["self"]
        vars(self).update(given, do_not_save=False)

    def _comment(self, place, markup):
        setattr(self, place, getattr(self, place) + f" {markup}")
        return self

    def link(self, label, url):
        return self._comment("comment_before", f"<a target='_blank' href='{url}'>{label}</a>")

    def js(self, label, js_func):
        return self._comment("comment_before", f"<a href='#' onclick='{js_func}(); return false'>{label}</a>")

    def html(self, html):
        return self._comment("comment_after", html)

    def info(self, info):
        return self.html(f"<span class='info'>({info})</span>")

    def needs_restart(self):
        return self.info("after a restart")

    def needs_reload_ui(self):
        return self.info("after Reload UI")


def options_section(section_identifier, options_dict):
    """Put the settings of ``options_dict`` under a heading: (id, label) or (id, label, category)."""
    *section, category = section_identifier if len(section_identifier) > 2 else (*section_identifier, None)
    for info in options_dict.values():
        info.section, info.category_id = tuple(section), category or info.category_id
    return options_dict


class Options:
    """Settings as attributes. ``data`` has what the file or somebody has set, ``data_labels`` the rest's defaults."""

    def __init__(self, data_labels, restricted_opts):
        vars(self).update(data={}, data_labels=data_labels, restricted_opts=restricted_opts)

    def __getattr__(self, item):
        stores = vars(self)
        if item in stores.get("data", ()):
            return stores["data"][item]
        if item in stores.get("data_labels", ()):
            return stores["data_labels"][item].default
        raise AttributeError(f"there is no setting {item!r}")

    def __setattr__(self, key, value):
        is_setting = key not in vars(self) and (key in self.data or key in self.data_labels)
        (self.data if is_setting else vars(self))[key] = value

    def set(self, key, value, is_api=False, run_callbacks=True):
        """Whether that changed anything. A change that its own ``onchange`` fails at is taken back."""
        info, before = self.data_labels[key], getattr(self, key)
        if value == before or info.do_not_save or (is_api and info.restrict_api):
            return False
        self.data[key] = value
        try:
            if run_callbacks and info.onchange is not None:
                info.onchange()
        except Exception as error:
            errors.display(error, f"setting {key} to {value}")
            self.data[key] = before
            return False
        return True

    def get_default(self, key):
        return self.data_labels[key].default if key in self.data_labels else None

    def load(self, filename):
        """Take the file's values: afterwards ``data`` has only the file's keys, and these are what gets restored
        after a request has overridden them."""
        file = Path(filename)
        self.data = json.loads(file.read_text(encoding="utf8")) if file.exists() else {}

    def save(self, filename):
        Path(filename).write_text(json.dumps(self.data, indent=1, ensure_ascii=False), encoding="utf8")

    def onchange(self, key, func, call=True):
        self.data_labels[key].onchange = func
        if call:
            func()

    def add_option(self, key, info):
        self.data_labels[key] = info
        if not info.do_not_save:
            self.data.setdefault(key, info.default)

    def cast_value(self, key, value):
        """A text's value, in the type of the setting; None where that type is unknown."""
        default = self.get_default(key)
        kind = type(getattr(self, key) if default is None else default)
        if value is None or kind is type(None):
            return None
        return str(value) == "True" if kind is bool else kind(value)
