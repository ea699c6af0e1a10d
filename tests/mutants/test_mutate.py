"""Which mutants are made, and which are not: those of constants and messages."""

from tests.mutants.mutate import mutants
from tests.mutants.report import page


def names(source):
    return [mutant.name for mutant in mutants(source)]


def test_operators_conditions_and_flags_are_changed_also_in_decorated_functions():
    source = """
class A:
    @property
    def b(self):
        if self.c and len(self.d) < 3:
            return sorted(self.d, reverse=True)
        return [x + 1 for x in self.d if x]
"""
    assert set(names(source)) == {
        "if self.c and len(self.d) < 3: -> if not (self.c and len(self.d) < 3):",
        "if self.c and len(self.d) < 3: -> if self.c or len(self.d) < 3:",
        "if self.c and len(self.d) < 3: -> if self.c and len(self.d) <= 3:",
        "return sorted(self.d, reverse=True) -> return sorted(self.d, reverse=False)",
        "return [x + 1 for x in self.d if x] -> return [x - 1 for x in self.d if x]",
        "return [x + 1 for x in self.d if x] -> return [x + 1 for x in self.d if not (x)]",
    }


def test_constants_messages_annotations_and_decorators_are_not():
    source = '''
"""Not this -> nor that."""
from a import b
@dataclass(frozen=True)
class A:
    c: int | None = -1
    d = 2 * 3 + 4
    def e(self):
        log.info("%s", self.c + 1)
        print(f"{self.c + 1}")
        raise ValueError("no" + str(self.c + 1))
'''
    assert names(source) == []


def test_equal_changes_of_equal_lines_have_names_of_their_own():
    assert names("x = a < b\ny = 0\nx = a < b\n") == ["x = a < b -> x = a <= b", "x = a < b -> x = a <= b (2)"]


def test_the_page_wants_nine_of_ten_and_a_reason_for_each_survivor():
    results = {"a.py": {"mutants": 20, "survivors": ["x -> y"]}, "b.py": {"mutants": 10, "survivors": ["v -> w"]}}
    text, is_good = page(results, results, {"a.py": {"x -> y": "The same."}})
    assert not is_good
    assert "| `a.py` | 20 | 19 | 95.0% |" in text
    assert "| all | 30 | 28 | 93.3% |" in text
    assert "The same." in text
    assert "No reason yet." in text
    reasons = {"a.py": {"x -> y": "The same."}, "b.py": {"v -> w": "Faster only."}}
    assert page(results, results, reasons)[1]
    assert not page([*results, "c.py"], results, reasons)[1]
    assert not page(["a.py"], {"a.py": {"mutants": 5, "survivors": ["x -> y"]}}, reasons)[1]
