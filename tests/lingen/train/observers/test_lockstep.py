"""Lockstep: the largest flag of any rank, on every rank."""

from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.observer import Step


def test_one_rank_hears_itself(process_group):
    lockstep, step = Lockstep(), Step(0, last=False, flags={"a": 2, "b": False})
    lockstep.before_step(step)
    lockstep.after_step(step)
    assert step.flags == {"a": 2, "b": 0}
    assert lockstep.gather({"x": 1}) == [{"x": 1}]


SCRIPT = """
import torch.distributed as dist
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.observer import Step
dist.init_process_group("gloo")
rank, lockstep = dist.get_rank(), Lockstep(60.0)
for number in range(3):
    step = Step(number, last=False, flags={"mine": rank if number == 1 else 0, "other": 5 - rank})
    lockstep.before_step(step)
    lockstep.after_step(step)
    assert step.flags == {"mine": 1 if number == 1 else 0, "other": 5}, step
assert lockstep.gather("ab"[rank]) == ["a", "b"]
dist.destroy_process_group()
"""


def test_two_ranks_agree_on_the_largest_flags_of_every_step(run_ranks):
    run_ranks(SCRIPT, 2)
