"""The CUDA sources compiled by nvcc, without a GPU: no spills, shared memory within limits, a library that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyena_kernels import _build
from hyena_kernels.testing.resources import cuda as _resources
from hyena_kernels.testing.resources.record import Record

pytestmark = pytest.mark.skipif(
    _resources.find_nvcc() is None,
    reason="needs nvcc, which is neither on the PATH nor in CUDA_HOME/bin nor in /usr/local/cuda/bin",
)


@pytest.mark.slow
def test_no_kernel_spills_or_wants_too_much_shared_memory() -> None:
    # Sources that have changed since `make resources` are compiled, and a sixteenth of the others.
    table = _resources.measure([80, 90], Record(_resources.RECORD))
    assert _resources.faults(table) == []
    assert all(set(row) == {80, 90} for row in table.values())
    names = {name.split(",")[0].split()[0] + "_kernel" for name in table}
    templates = (*_resources._TRANSFORMS, *_resources._PATCHES)
    assert names == {*(f"{name}_kernel" for name in templates), *_resources.KERNELS}
    assert sum(name.startswith("fftconv_rows") and name.endswith(", forward") for name in table) == 13
    # Where registers bind, an A100 holds as many rows as an H100, but for plans that would spill.
    rows = [name for name in table if name.startswith(("fftconv_rows", "fftconv_inner")) and name.endswith(", forward")]
    fewer = [name.split(" =")[0] for name in rows if table[name][80].occupancy < table[name][90].occupancy]
    assert fewer == [f"fftconv_rows {points}" for points in (256, 1024, 2048, 4096)]
    # Four numbers of points, each with three lengths of rows.
    assert sum(name.startswith("fftconv_columns") for name in table) == 4 + 4 * 3
    # Three dtypes in both orders. Backward of two signals is compiled for projections only. Two dtypes have 16 bits.
    # Their projections also come with float32 on the other side, forward and backward.
    assert sum("patches" in name for name in table) == 3 * (2 + 3 + 2) + 2 * (1 + 1)
    # Every optional form is used on at least one of the two architectures.
    assert not [name for name, row in table.items() if not any(row.values())]


def test_faults_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "toy.cu"
    source.write_text(
        'extern "C" __global__ void __launch_bounds__(1024) transpose_kernel(float* x, int n) {'
        "  float v[200]; for (int i = 0; i < 200; ++i) v[i] = x[i * n];"
        "  for (int i = 0; i < 200; ++i) x[i] = v[(i * n) % 200]; }"
    )
    monkeypatch.setenv("HYENA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_resources, "kernel_sources", lambda: [source])
    monkeypatch.setattr(_resources, "cases", lambda name: [_resources.Case(name, 1024, 164 << 10)])
    found = _resources.faults(_resources.measure([80]))
    assert len(found) == 2
    assert "registers spill" in found[0]
    assert "bytes of shared memory" in found[1]
    # The second time nothing is compiled: a call of None would raise. A source that has changed is.
    with monkeypatch.context() as patch:
        patch.setattr(_resources.tempfile, "TemporaryDirectory", None)
        assert _resources.faults(_resources.measure([80])) == found
    # What is on record is not compiled either, but for a sixteenth, which has to be equal.
    record = Record()
    _resources.measure([80], record)
    with monkeypatch.context() as patch:
        patch.setattr(_resources, "_ptxas_output", None)
        patch.setattr(_resources, "AGAIN", "no digit")
        assert _resources.faults(_resources.measure([80], record)) == found
    with monkeypatch.context() as patch:
        patch.setattr(_resources, "AGAIN", "")
        assert _resources.faults(_resources.measure([80], record)) == found
        patch.setattr(_resources, "_ptxas_output", lambda *_: "")
        with pytest.raises(RuntimeError, match=r"toy.cu sm_80: registers and stack are not those in cuda.json"):
            _resources.measure([80], record)
    source.write_text("no C++")
    with pytest.raises(RuntimeError, match=r"nvcc failed on toy.cu for sm_80"):
        _resources.measure([80])


@pytest.mark.slow
def test_bindings_link_and_load_beside_a_torch_without_cuda(tmp_path: Path) -> None:
    """The library registers its ops. It has no kernels, which the test above compiles."""
    if torch.version.cuda is not None:
        pytest.skip("needs a torch without CUDA; beside one with CUDA the library is built and loaded as installed")
    folder = Path(torch.__file__).parent
    nvcc, library = _resources.find_nvcc(), tmp_path / "bindings.so"
    assert nvcc is not None
    stubs = tmp_path / "kernels.cu"
    stubs.write_text(STUBS)
    command = [nvcc, *_build.NVCC_FLAGS, "-DHYENA_TORCH_WITHOUT_CUDA", f"-I{folder / 'include'}"]
    command += [f"-I{_build.CSRC / 'cuda'}", "-gencode=arch=compute_80,code=sm_80", "-shared", "-o", str(library)]
    command += [str(_build.CSRC / "cuda" / "bindings.cu"), str(stubs), f"-L{folder / 'lib'}", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    script = (
        f"import torch; torch.ops.load_library({str(library)!r})\n"
        "from hyena_kernels.backends.cuda import schemas\n"
        "for schema in schemas.SCHEMAS:\n"
        "    name = 'hyena_kernels_ext::' + schema.partition('(')[0]\n"
        "    key = 'CUDA' if 'Tensor' in schema else 'CompositeExplicitAutograd'\n"
        "    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


STUBS = """
#include "fftconv_long.h"
#include "fftconv_passes.h"
#include "fftconv_skip.h"
#include "implicit_filter.h"
#include "short_conv.h"

namespace hyena {
int64_t fftconv_rows_points(int64_t) { return 0; }
int64_t fftconv_rows_shared(int64_t, int64_t) { return 0; }
int64_t fftconv_passes_points(int64_t) { return 0; }
int64_t fftconv_passes_shared(int64_t, int64_t) { return 0; }
int64_t fftconv_skip_spans(int64_t) { return 0; }
int64_t filter_blocks(int64_t) { return 0; }
void fftconv_rows(const FftconvRows&, int64_t, Stream) {}
void fftconv_passes(const FftconvPasses&, int64_t, Stream) {}
void fftconv_weight(const FftconvWeight&, Stream) {}
void fftconv_product(const FftconvProduct&, Stream) {}
void fftconv_unweight(const FftconvUnweight&, Stream) {}
void fftconv_skip(const FftconvSkip&, Stream) {}
void short_conv_forward(const ShortConvForward&, Stream) {}
void short_conv_backward(const ShortConvBackward&, Stream) {}
void transpose(const Transpose&, Stream) {}
void filter_forward(const FilterForward&, Stream) {}
void filter_sine(const FilterSine&, Stream) {}
void filter_sine_backward(const FilterSineBackward&, Stream) {}
void filter_window(const FilterWindow&, Stream) {}
}  // namespace hyena
"""
