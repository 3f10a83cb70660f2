"""IP-Adapter: the door through which the WebUI comes in. What happens is in lib_ipadapter/webui/callbacks.py."""

from modules import scripts

from lib_ipadapter.webui import process as kept
from lib_ipadapter.webui import start
from lib_ipadapter.webui.panel import accordion as panel


def callbacks():
    """Loaded by the first job: a start needs nothing of it."""
    from lib_ipadapter.webui import callbacks

    return callbacks


class IPAdapterScript(scripts.Script):
    def title(self):
        return "IP-Adapter"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        built = panel.build("img2img" if is_img2img else "txt2img", kept.resources, kept.store)
        self.infotext_fields, self.paste_field_names = built.infotext_fields, built.paste_field_names
        return built.components

    def setup(self, p, *args):
        callbacks().setup(p)

    def before_process(self, p, *args):
        callbacks().before_process(p, args)

    def process(self, p, *args):
        callbacks().process(p, args)

    def process_before_every_sampling(self, p, *args, **kwargs):
        callbacks().before_sampling(p)

    def post_sample(self, p, ps, *args):
        callbacks().after_sampling(p)

    def postprocess_image_after_composite(self, p, pp, *args):
        callbacks().picture_finished(p, pp)

    def postprocess(self, p, processed, *args):
        callbacks().finished(p, processed)


start.register()
