"""What is a rank's own, and what all ranks hold together."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lingen.train.ranks import cpu_group, local, whole


def test_plain_tensors_are_local_and_whole():
    tensor = torch.arange(3)
    assert local(tensor) is tensor
    assert whole(tensor) is tensor


def test_a_cpu_group_has_all_ranks_and_its_own_timeout(process_group):
    group = cpu_group(12.0)
    assert dist.get_process_group_ranks(group) == [0]
    assert group is not dist.group.WORLD


def test_a_shard_is_local_and_gathered_whole(process_group):
    tensor = distribute_tensor(torch.arange(4.0), init_device_mesh("cpu", (1,)), [Shard(0)])
    assert type(local(tensor)) is torch.Tensor
    assert type(whole(tensor)) is torch.Tensor
    assert torch.equal(whole(tensor), torch.arange(4.0))
