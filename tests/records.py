"""What tests compare of the histories of fits."""


def timeless(history, *others):
    """Records without the seconds in them, and without others that are a matter of the run."""
    return [
        {name: value for name, value in record.items() if not name.startswith(("seconds", *others))}
        for record in history
    ]
