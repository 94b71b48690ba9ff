#include "fftconv_rows.cuh"

namespace hyena {

// In fftconv_rows_odd.cu, so that two compilers can work at a time.
extern template void launch_fftconv_rows<Rows768>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows1280>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows1536>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows2560>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows3072>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows5120>(const FftconvRows&, Stream);
extern template void launch_fftconv_rows<Rows6144>(const FftconvRows&, Stream);

int64_t fftconv_rows_points(int64_t length) {
  for (int64_t points = smallest_row; points <= largest_row; points += smallest_row)
    if (points >= length && with_row_plan(points, [](auto) {})) return points;
  return 0;
}

int64_t fftconv_rows_shared(int64_t points, int64_t spectra) {
  int64_t bytes = 0;
  with_row_plan(points, [&](auto plan) {
    using Plan = decltype(plan);
    bytes = row_planes_bytes<Plan> + spectra * row_spectrum_bytes<Plan>;
  });
  return bytes;
}

void fftconv_rows(const FftconvRows& args, int64_t points, Stream stream) {
  if (!with_row_plan(points, [&](auto plan) { launch_fftconv_rows<decltype(plan)>(args, stream); }))
    throw std::invalid_argument("fftconv: no transform of " + std::to_string(points) + " points fits on chip");
}

}  // namespace hyena
