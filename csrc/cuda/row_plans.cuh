// The transforms that fit on chip. A plan has threads per row, rows per block, and radices. A thread has at most 20
// values.
#pragma once

#include "row_transform.cuh"

namespace hyena {

using Rows256 = RowPlan<16, 8, 16, 16>;
using Rows512 = RowPlan<64, 2, 8, 8, 8>;
using Rows768 = RowPlan<64, 2, 12, 4, 16>;
using Rows1024 = RowPlan<64, 2, 16, 4, 16>;
using Rows1280 = RowPlan<80, 2, 20, 4, 16>;
using Rows1536 = RowPlan<128, 1, 12, 8, 16>;
using Rows2048 = RowPlan<128, 1, 16, 8, 16>;
using Rows2560 = RowPlan<160, 1, 20, 8, 16>;
using Rows3072 = RowPlan<256, 1, 12, 16, 16>;
using Rows4096 = RowPlan<256, 1, 16, 16, 16>;
using Rows5120 = RowPlan<320, 1, 20, 16, 16>;
using Rows6144 = RowPlan<512, 1, 12, 8, 4, 16>;
using Rows8192 = RowPlan<512, 1, 8, 8, 8, 16>;

template <class Plan>
constexpr int row_planes_bytes = Plan::rows * Plan::plane * static_cast<int>(sizeof(Complex<float>));

// Shared memory for one spectrum per row. Each thread reads only its own values, and neighbouring threads have
// neighbouring places.
template <class Plan>
constexpr int row_spectrum_bytes = Plan::block* Plan::spectrum * static_cast<int>(sizeof(Complex<float>));

// The kernels that transform rows: of the tensors, or of scratch between two passes over columns. The first also reads
// and writes gates, which takes registers.
enum class RowKernel { tensors, scratch };

// How many blocks a multiprocessor should hold, if memory allows: 512 threads in all, with 128 registers each, and
// fewer threads if each has more values.
template <class Plan>
constexpr int full_row_blocks = (Plan::values > 16 ? 320 : 512) / Plan::block;

// The bound of a kernel's launches. Before Hopper, rows of tensors that begin with a radix of 16 would spill 36 to 40
// bytes a thread within 128 registers. They get as many registers as they want.
template <class Plan, RowKernel kernel>
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int row_blocks = kernel == RowKernel::tensors && Plan::radix(0) == 16 ? 1 : full_row_blocks<Plan>;
#else
constexpr int row_blocks = full_row_blocks<Plan>;
#endif

// All numbers of points are multiples of the smallest one.
constexpr int64_t smallest_row = 256, largest_row = 8192;

// Calls f(plan) with the plan for this number of points. Returns false if there is none.
template <class F>
bool with_row_plan(int64_t points, F&& f) {
  switch (points) {
    case 256: f(Rows256()); return true;
    case 512: f(Rows512()); return true;
    case 768: f(Rows768()); return true;
    case 1024: f(Rows1024()); return true;
    case 1280: f(Rows1280()); return true;
    case 1536: f(Rows1536()); return true;
    case 2048: f(Rows2048()); return true;
    case 2560: f(Rows2560()); return true;
    case 3072: f(Rows3072()); return true;
    case 4096: f(Rows4096()); return true;
    case 5120: f(Rows5120()); return true;
    case 6144: f(Rows6144()); return true;
    case 8192: f(Rows8192()); return true;
    default: return false;
  }
}

}  // namespace hyena
