// Rows of 3 · 2^n and 5 · 2^n points
#include "fftconv_rows.cuh"

namespace hyena {

template void launch_fftconv_rows<Rows768>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows1280>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows1536>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows2560>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows3072>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows5120>(const FftconvRows&, Stream);
template void launch_fftconv_rows<Rows6144>(const FftconvRows&, Stream);

}  // namespace hyena
