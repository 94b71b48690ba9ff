// The transform modulo z^P - i of rows of real numbers, and its inverse.
//
// Signals of at most P points are polynomials in z. Their linear convolution is a polynomial c of degree below 2P, and
// c modulo z^P - i is c[n] + i c[n + P]. The real parts and the imaginary parts together are all of c.
//
// A two-sided filter k has up to 2L - 1 coefficients. Those from P on are imaginary parts too. Then c has a degree below
// 3P, and c modulo z^P - i is c[n] - c[n + 2P] + i c[n + P]. The results are c[n] for n from `tap` on, where
// tap = (K-1)/2, and c[tap + 2P] and all after it are zero. The gradients of the signal and of k follow in the same way.
//
// A residue modulo z^(Rm) - r^R splits into R residues modulo z^m - r w^j, where w = exp(2πi/R). Residue j is the sum
// over s of r^s w^(js) times the s-th block of m coefficients. So each node of the tree of residues has its own factors
// r^s, which are the same for all of its m coefficients. The tables of plan.h hold them, and nothing is ever reordered.
//
// At the leaves, blocks have as many points as a vector has lanes. Many of them are transposed together, and the last
// splits take place between vectors. The spectrum stays in the order of the leaves: products are taken in this order,
// and the inverse starts from it. Complex numbers are stored as a vector of real parts followed by the vector of
// imaginary parts.
//
// The transform is known as the right-angle convolution: z^P = i, where a cyclic convolution has z^P = 1.
#pragma once

#include "dft.inl"
#include "plan.h"
#include "rows.h"

namespace hyena {
namespace {

template <class T>
constexpr int width = Simd<T>::width;

template <class T>
HYENA_INLINE Complex<T> load_complex(const T* p) {
  return {load(p), load(p + width<T>)};
}

template <class T>
HYENA_INLINE void store_complex(T* p, Complex<T> v) {
  store(p, v.re);
  store(p + width<T>, v.im);
}

// One pass over `nodes` neighbouring nodes with R blocks of `length` points each. The inverse undoes it up to a factor
// R.
template <int R, bool inverse, class T>
void pass(T* data, std::int64_t nodes, std::int64_t length, const T* twiddles) {
  for (std::int64_t node = 0; node < nodes; ++node, data += 2 * R * length, twiddles += 2 * (R - 1)) {
    for (std::int64_t i = 0; i < 2 * length; i += 2 * width<T>) {
      Complex<T> x[R];
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) {
        x[s] = load_complex(data + 2 * s * length + i);
        if (!inverse && s > 0) x[s] = times<false>(x[s], twiddles[2 * s - 2], twiddles[2 * s - 1]);
      }
      dft<R, inverse ? -1 : 1>(x);
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) {
        if (inverse && s > 0) x[s] = times<true>(x[s], twiddles[2 * s - 2], twiddles[2 * s - 1]);
        store_complex(data + 2 * s * length + i, x[s]);
      }
    }
  }
}

template <bool inverse, class T>
void pass(const Plan<T>& plan, int l, T* data, std::int64_t first, std::int64_t nodes) {
  const T* twiddles = plan.twiddles[l] + first * (plan.radix[l] - 1) * 2;
  switch (plan.radix[l]) {
    case 2: return pass<2, inverse>(data, nodes, plan.length[l], twiddles);
    case 4: return pass<4, inverse>(data, nodes, plan.length[l], twiddles);
    default: return pass<8, inverse>(data, nodes, plan.length[l], twiddles);
  }
}

// The last splits of `width` blocks of `width` points each, with the factors of all of these blocks
template <class T>
struct Leaf {
  static constexpr int W = width<T>, exponents = leaf_exponents(W);
  Vec<T> re[W], im[W];  // powers 0 … W-1 of each block's factor, of which power 0 is not used

  HYENA_INLINE explicit Leaf(const T* table) {
#pragma GCC unroll 16
    for (int e = 0; e < exponents; ++e) {
      re[leaf_exponent(e)] = load(table + 2 * e * W);
      im[leaf_exponent(e)] = load(table + (2 * e + 1) * W);
    }
#pragma GCC unroll 16
    for (int n = 5; n < W; ++n) {
      if (n % 4 == 0) continue;
      const Complex<T> power = times<false>(Complex<T>{re[n & ~3], im[n & ~3]}, re[n & 3], im[n & 3]);
      re[n] = power.re;
      im[n] = power.im;
    }
  }

  HYENA_INLINE void forward(const T* block, Complex<T> (&x)[W]) const {
    Vec<T> a[W], b[W];
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) {
      a[n] = load(block + 2 * n * W);
      b[n] = load(block + (2 * n + 1) * W);
    }
    transpose<T>(a);
    transpose<T>(b);
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) {
      x[n] = {a[n], b[n]};
      if (n > 0) x[n] = times<false>(x[n], re[n], im[n]);
    }
    dft<W, 1>(x);
  }

  HYENA_INLINE void inverse(Complex<T> (&x)[W], T* block) const {
    dft<W, -1>(x);
    Vec<T> a[W], b[W];
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) {
      if (n > 0) x[n] = times<true>(x[n], re[n], im[n]);
      a[n] = x[n].re;
      b[n] = x[n].im;
    }
    transpose<T>(a);
    transpose<T>(b);
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) {
      store(block + 2 * n * W, a[n]);
      store(block + (2 * n + 1) * W, b[n]);
    }
  }
};

// Blocks of at most this many points go through one whole pass after the other.
constexpr std::int64_t bottom = 1024;

// Does everything between the first pass forward and the last pass back, one part of the tree at a time: passes forward
// over the rows of `Visit::forward`, the visit of the leaves, and passes back over the rows of `Visit::backward`.
template <class T, class Visit>
void descend(const Plan<T>& plan, int l, std::int64_t first, std::int64_t nodes, std::int64_t offset, Visit& visit) {
  const std::int64_t points = nodes * (l < plan.passes ? plan.radix[l] * plan.length[l] : width<T>);
  if (points > bottom && l < plan.passes) {
    for (std::int64_t node = first; node < first + nodes; ++node) {
      const std::int64_t size = plan.radix[l] * plan.length[l], at = offset + (node - first) * size;
      if (size <= bottom) {
        const std::int64_t few = bottom / size;
        const std::int64_t now = few < first + nodes - node ? few : first + nodes - node;
        descend(plan, l, node, now, at, visit);
        node += now - 1;
        continue;
      }
      for (T* row : visit.forward) pass<false>(plan, l, row + 2 * at, node, 1);
      descend(plan, l + 1, node * plan.radix[l], plan.radix[l], at, visit);
      for (T* row : visit.backward) pass<true>(plan, l, row + 2 * at, node, 1);
    }
    return;
  }
  for (T* row : visit.forward) {
    std::int64_t now = nodes;
    for (int m = l, at = first; m < plan.passes; at *= plan.radix[m], now *= plan.radix[m], ++m)
      pass<false>(plan, m, row + 2 * offset, at, now);
  }
  constexpr int W = width<T>;
  for (std::int64_t i = offset; i < offset + points; i += W * W) {
    const Leaf<T> leaf(plan.leaves + i / (W * W) * Leaf<T>::exponents * 2 * W);
    visit.leaf(leaf, 2 * i);
  }
  for (T* row : visit.backward) {
    std::int64_t now = nodes, at = first;
    for (int m = l; m < plan.passes; ++m) now *= plan.radix[m], at *= plan.radix[m];
    for (int m = plan.passes - 1; m >= l; --m) {
      now /= plan.radix[m];
      at /= plan.radix[m];
      pass<true>(plan, m, row + 2 * offset, at, now);
    }
  }
}

}  // namespace
}  // namespace hyena
