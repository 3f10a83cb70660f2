"""One job, start to end: units -> plans -> image prompts -> the UNet's hooks -> undo.

Everything that can be wrong with any unit is found before anything is loaded, everything that is loaded is turned
into keys and values before the first step, and what is attached for a sampling pass is removed after it.
"""
