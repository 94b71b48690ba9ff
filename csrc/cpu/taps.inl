// The kernels of short convolutions for this instruction set: of rows (short_conv.inl), of channel-last projections
// (projection.inl), and of the mixer (mixer.inl).
#include "mixer.inl"
#include "projection.inl"
#include "short_conv.inl"

namespace hyena {
namespace {

template <class Args, void (*wide)(const Args&, std::int64_t, std::int64_t),
          void (*narrow)(const Args&, std::int64_t, std::int64_t)>
void either(const Args& args, std::int64_t first, std::int64_t last) {
  args.wide ? wide(args, first, last) : narrow(args, first, last);
}

}  // namespace

const TapsKernels HYENA_KERNELS(taps) = {
    either<ShortConvForward, short_conv_forward<double>, short_conv_forward<float>>,
    either<ShortConvBackward, short_conv_backward<double>, short_conv_backward<float>>,
    either<ProjectForward, project_forward<double>, project_forward<float>>,
    either<ProjectBackward, project_backward<double>, project_backward<float>>,
    either<MixerForward, mixer_forward<double>, mixer_forward<float>>,
    either<MixerBackward, mixer_backward<double>, mixer_backward<float>>,
};

}  // namespace hyena
