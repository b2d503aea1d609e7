"""Python reads this at its start: modules that look every few seconds whether something is done look more often."""

import time

_sleep = time.sleep


def _shorter(seconds):
    _sleep(0.02 if seconds >= 1 else seconds)


time.sleep = _shorter
