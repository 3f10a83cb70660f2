"""Finding and recognising faces in pictures: insightface in a process of its own, and what is done with its answers."""
