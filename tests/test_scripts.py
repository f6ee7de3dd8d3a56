"""What lies in scripts/ is run, or its place says why not."""

import re

# By hand: they need a GPU, or valgrind.
BY_HAND = {"check_gpu", "check_memory"}


def test_every_check_is_part_of_the_long_tests(request):
    scripts = request.config.rootpath / "scripts"
    run = set(re.findall(r"scripts/(check_\w+)", (scripts / "test").read_text()))
    assert {path.name for path in scripts.glob("check_*")} == run | BY_HAND
