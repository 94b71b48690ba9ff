#include "plan.h"

#include <cmath>
#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace hyena {
namespace {

// The tables of a plan are about as large as half a row of complex numbers: 4 MiB at 2^20 points.
constexpr std::size_t kept_bytes = std::size_t{64} << 20;

template <class T>
struct Owned : Plan<T> {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> tables;
  std::size_t bytes = 0;
  int users = 0;

  T* table(std::size_t count) {
    const std::size_t size = (count * sizeof(T) + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, size);
    if (memory == nullptr) throw std::bad_alloc();
    tables.emplace_back(memory);
    bytes += size;
    return static_cast<T*>(memory);
  }
};

template <class T>
void put(T* at, std::int64_t apart, double turns) {
  const double angle = 2 * 3.14159265358979323846 * turns;
  at[0] = static_cast<T>(std::cos(angle));
  at[apart] = static_cast<T>(std::sin(angle));
}

void choose_size(std::int64_t length, int width, std::int64_t& points, int& top, std::int64_t& block) {
  points = 0;
  // Of two equal sizes it takes the one with the larger first radix, which leaves fewer passes.
  for (int radix = 8; radix >= 4; --radix) {
    std::int64_t rest = width;
    while (rest * radix < length) rest *= 2;
    if (points == 0 || rest * radix < points) {
      points = rest * radix;
      top = radix;
      block = rest;
    }
  }
}

template <class T>
std::unique_ptr<Owned<T>> make(std::int64_t length, int width) {
  auto plan = std::make_unique<Owned<T>>();
  choose_size(length, width, plan->points, plan->top, plan->block);
  plan->width = width;

  // A node is the residue modulo z^m - exp(2πi turns). The root is the one modulo z^P - i.
  std::vector<double> turns{0.25};
  T* first = plan->table(2 * plan->top);
  for (int s = 0; s < plan->top; ++s) put(first + 2 * s, 1, turns[0] * s / plan->top);
  plan->top_twiddles = first;
  const auto split = [&turns](int radix) {
    std::vector<double> children(turns.size() * radix);
    for (std::size_t t = 0; t < turns.size(); ++t)
      for (int j = 0; j < radix; ++j) children[t * radix + j] = (turns[t] + j) / radix;
    turns.swap(children);
  };
  split(plan->top);

  std::int64_t size = plan->block;
  while (size > width) {
    const std::int64_t rest = size / width;
    // Radix 8 as often as possible, without a radix 2 where two fours do: 16 is 4 × 4, not 8 × 2.
    const int radix = rest == 2 ? 2 : rest == 4 || rest == 16 ? 4 : 8;
    const int l = plan->passes++;
    plan->radix[l] = radix;
    plan->length[l] = size /= radix;
    T* table = plan->table(turns.size() * (radix - 1) * 2);
    plan->twiddles[l] = table;
    for (double t : turns)
      for (int s = 1; s < radix; ++s, table += 2) put(table, 1, t * s / radix);
    split(radix);
  }

  const int exponents = leaf_exponents(width);
  plan->groups = (static_cast<std::int64_t>(turns.size()) + width - 1) / width;
  turns.resize(plan->groups * width, 0.0);
  T* leaves = plan->table(plan->groups * exponents * 2 * width);
  plan->leaves = leaves;
  for (std::int64_t group = 0; group < plan->groups; ++group)
    for (int e = 0; e < exponents; ++e)
      for (int lane = 0; lane < width; ++lane)
        put(leaves + ((group * exponents + e) * 2) * width + lane, width,
            turns[group * width + lane] * leaf_exponent(e) / width);
  return plan;
}

template <class T>
struct Cache {
  std::mutex mutex;
  std::list<std::unique_ptr<Owned<T>>> plans;  // the one used last is in front
};

template <class T>
Cache<T>& cache() {
  static Cache<T> instance;
  return instance;
}

}  // namespace

template <class T>
const Plan<T>* acquire_plan(std::int64_t length, int width) {
  std::int64_t points, block;
  int top;
  choose_size(length, width, points, top, block);
  Cache<T>& kept = cache<T>();
  std::lock_guard<std::mutex> lock(kept.mutex);
  auto found = kept.plans.begin();
  while (found != kept.plans.end() && ((*found)->points != points || (*found)->width != width)) ++found;
  if (found == kept.plans.end()) {
    kept.plans.push_front(make<T>(length, width));
  } else {
    kept.plans.splice(kept.plans.begin(), kept.plans, found);
  }
  Owned<T>* plan = kept.plans.front().get();
  ++plan->users;
  std::size_t bytes = 0;
  for (auto it = kept.plans.begin(); it != kept.plans.end();) {
    bytes += (*it)->bytes;
    it = bytes > kept_bytes && (*it)->users == 0 ? kept.plans.erase(it) : std::next(it);
  }
  return plan;
}

template <class T>
void release_plan(const Plan<T>* plan) {
  std::lock_guard<std::mutex> lock(cache<T>().mutex);
  --static_cast<Owned<T>*>(const_cast<Plan<T>*>(plan))->users;
}

template const Plan<float>* acquire_plan<float>(std::int64_t, int);
template const Plan<double>* acquire_plan<double>(std::int64_t, int);
template void release_plan<float>(const Plan<float>*);
template void release_plan<double>(const Plan<double>*);

}  // namespace hyena
