"""What can go wrong with a lab, in words for the person who asked for it."""


class LabError(Exception):
    """The lab could not be brought up, found or changed. `str()` says what and where, `hint` what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
