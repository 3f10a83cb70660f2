"""What the host knows about the text encoder of the current model."""

from modules import shared


class StableDiffusionModelHijack:
    def __init__(self):
        self.clip = None
        self.comments = []

    def hijack(self, m):
        self.clip = m.cond_stage_model

    def clear_comments(self):
        self.comments = []

    def get_prompt_lengths(self, text):
        """Tokens of a prompt, and for how many there is room before the next chunk begins."""
        encoder = shared.sd_model.cond_stage_model
        (tokens,) = encoder.tokenize([text])
        return len(tokens), encoder.get_target_prompt_token_count(len(tokens))


model_hijack = StableDiffusionModelHijack()
