"""Times written for people, with their units."""


def duration(seconds: float) -> str:
    """45 s, 4 min, 2 h 10 min."""
    if seconds < 90:
        return "%.0f s" % seconds
    minutes = int(seconds / 60 + 0.5)
    return "%d min" % minutes if minutes < 90 else "%d h %d min" % divmod(minutes, 60)
