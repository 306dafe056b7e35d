"""What the user reads when the data can't be used."""

import pytest

from tfseg.errors import ConfigError, DataError, ExportError, Problem, RunError, UserError, WeightsError


def problems(count):
    return [Problem("truncated", f"images/{number}.jpg", "the file is cut short") for number in range(count)]


def test_a_problem_names_file_message_and_kind():
    assert str(problems(1)[0]) == "images/0.jpg: the file is cut short [truncated]"
    assert problems(1)[0].severity == "error"


def test_one_problem():
    error = DataError(problems(1), "my_data")
    assert str(error) == "1 problem in my_data:\n  images/0.jpg: the file is cut short [truncated]"


def test_all_problems_are_kept_and_twenty_are_shown():
    error = DataError(iter(problems(23)), "my_data")
    lines = str(error).splitlines()
    assert len(error.problems) == 23
    assert lines[0] == "23 problems in my_data:" and len(lines) == 22
    assert "… and 3 more" in lines[-1]


def test_twenty_are_not_shortened():
    assert "more" not in str(DataError(problems(20)))
    assert str(DataError(problems(2))).startswith("2 problems in the data:")


@pytest.mark.parametrize("kind", [ConfigError, RunError, WeightsError, DataError])
def test_these_are_the_users_to_mend(kind):
    assert issubclass(kind, UserError)


def test_a_wrong_export_is_not_the_users():
    assert not issubclass(ExportError, UserError)
