"""Launches and the GPU's busy time are read off a profile's events."""

from types import SimpleNamespace

from torch.autograd import DeviceType

from agents.launches import count_launches, working_us


def event(name, start=0, end=1, device=DeviceType.CPU, annotation=False):
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=span, device_type=device, is_user_annotation=annotation)


def test_a_graph_is_one_launch_and_so_is_a_copy():
    names = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync"]
    others = [
        "aten::add",
        "cudaStreamSynchronize",
        "cudaEventRecord",
        "cudaMalloc",
        "Optimizer.step#AdamW.step",
    ]
    kernels = [event("cudaLaunchKernel_lookalike", device=DeviceType.CUDA)]
    assert count_launches([*map(event, names), *map(event, others), *kernels]) == len(names)


def test_kernels_side_by_side_count_once_and_annotations_and_pauses_not_at_all():
    spans = [(0, 10), (5, 8), (9, 14), (20, 21)]
    kernels = [event("kernel", *span, DeviceType.CUDA) for span in reversed(spans)]
    rest = [event("aten::mm", 0, 100), event("ProfilerStep", 0, 100, DeviceType.CUDA, annotation=True)]
    assert working_us([*kernels, *rest]) == 15
    assert working_us([]) == 0
