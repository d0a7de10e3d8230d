"""Reads every settings file and applies every rule, before anything else runs.

    python -m stages.check_settings
    params.yaml, profiles/*.yaml -> data/settings_checked

Its out never changes, so a changed setting reruns this stage and, by itself, nothing else.
"""

from typing import Any

from stages import config
from stages.artifacts import SETTINGS_CHECKED, BadInput, run_stage, write_bytes


def main(argv: list[str]) -> dict[str, Any]:
    """Loads all profiles, then checks `params.yaml` against the active one."""
    if argv:
        raise BadInput(f"check_settings: takes no argument, was given {argv}; run it bare")
    study = config.load_study()
    names = config.profile_names()
    for name in names:
        config.load_profile(name)
    config.check(study, config.load_profile(study.profile))
    write_bytes(SETTINGS_CHECKED, b"ok\n")
    return {"made": f"{len(names)} profiles and params.yaml are sound"}


if __name__ == "__main__":
    run_stage(main)
