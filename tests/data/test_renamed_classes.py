"""Classes under other names."""

import pytest

from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError


class TestRenamedClasses:
    def load(self, make_folder, target):
        looks = enumerate(("round", "oval", "jagged", "round", ""))
        rows = [{"image": f"images/{number}.png", "mask": "", "look": look} for number, look in looks]
        return load_cases(make_folder(rows), target)

    def test_two_become_one_and_one_is_left_out(self, make_folder):
        cases = self.load(make_folder, "look:oval=round, jagged=")
        assert cases.classes == ("round",) and cases.labels.tolist() == [0, 0, -1, 0, -1]
        assert cases.target == "look:oval=round, jagged="

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("look:oval", "expected COLUMN:OLD=NEW,…, received the rule 'oval'"),
            ("look:=round", "received the rule '=round'"),
            ("look:square=round", "has no class square to rename; there are jagged, oval, round"),
        ],
    )
    def test_rules_that_say_nothing(self, make_folder, target, message):
        with pytest.raises(ConfigError, match=message):
            self.load(make_folder, target)
