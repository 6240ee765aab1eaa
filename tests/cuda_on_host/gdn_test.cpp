// The CUDA kernels and launchers of GDN, run on the host, against an oracle in long double written for this test alone.
//
// Tolerances are bounds on the rounding error of any correct kernel of this structure, not numbers that happen to pass.
// With u the unit roundoff of the accumulation type and k = 1 + k u + O(u^2) collected as k * u * kSecondOrder:
//   n_i = beta_i + sum_j gamma_ij x_j^2: terms of one sign, each rounded C + 2 times  -> (C + 2) u
//   n^-1/2: half of that, a root and a division                                       -> (C + 2) / 2 + 2
//   t_i: three times n^-1/2 and four products                                         -> 3 ((C + 2) / 2 + 2) + 4
//   sums over i: C additions more; over pixels: as many as the longest chain of additions
// and half a unit in the last place of the storage type at the end. `tiny` stands for results below the normal range.
#include "cuda/gdn.cu"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "device.h"

namespace {

using cuda_on_host::Buffer;
using cuda_on_host::check_value;
using cuda_on_host::Format;
using cuda_on_host::in_both_orders;
using cuda_on_host::same_bits;
using cuda_on_host::SparseBuffer;
using meon::GdnBackward;
using meon::GdnForward;
using meon::GdnShape;
using meon::cuda::AccOf;
using meon::cuda::GdnTile;
using Real = long double;

constexpr double kSecondOrder = 1.01;
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlow = true;
#else
constexpr bool kSlow = false;
#endif

template <class T>
constexpr double kRoundoffOfSums = Format<AccOf<T>>::kRoundoff;
template <class T>
constexpr double kTiny = 8 * Format<AccOf<T>>::kSmallest;  // a handful of products that fell below the normal range

GdnShape shape_of(int64_t batch, int64_t channels, int64_t spatial, bool channels_last) {
  return {batch, channels, spatial, channels_last ? 1 : spatial, channels_last ? channels : 1};
}

int64_t offset(const GdnShape& s, int64_t n, int64_t c, int64_t p) {
  return n * s.channels * s.spatial + c * s.stride_c + p * s.stride_s;
}

// ---- one problem, its inputs and what should come out ----

enum class Values { kOrdinary, kExtreme };

template <class T>
struct Problem {
  GdnShape s;
  int64_t pixels;
  Buffer<T> x, beta, gamma, grad_y;
  // The oracle's results, and the magnitudes that their error bounds are made of, all in the kernels' order.
  std::vector<Real> y, direct, indirect, indirect_size, t, grad_beta, grad_beta_size, grad_gamma, grad_gamma_size,
      grad_gamma_scale;

  Problem(const GdnShape& shape, Values values, unsigned seed)
      : s(shape),
        pixels(s.batch * s.spatial),
        x(pixels * s.channels),
        beta(s.channels),
        gamma(s.channels * s.channels),
        grad_y(pixels * s.channels) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::normal_distribution<double> normal;
    const bool extreme = values == Values::kExtreme;
    // gamma is not symmetric, and some of it is exactly zero, as trained ones are; but not beside extreme values, where
    // a zero would let one channel's gradient grow past any number without the other channel dividing it.
    for (int64_t i = 0; i < gamma.size(); ++i) {
      const double v = 2 * (0.05 + 0.95 * uniform(random)) / static_cast<double>(s.channels);
      gamma[i] = Format<T>::from(!extreme && uniform(random) < 0.1 ? 0 : v);
    }
    constexpr double kBetaFloor = 0x1p-20;  // a subnormal __half, and about the 1e-6 that beta is usually kept above
    for (int64_t i = 0; i < beta.size(); ++i) {
      beta[i] = Format<T>::from(extreme && i % 2 == 0 ? kBetaFloor : 0.5 + uniform(random));
    }
    // Squares of the largest values still fit in the type that they are summed in.
    const double span = std::is_same_v<T, __half> ? 4 : std::is_same_v<T, double> ? 150 : 18;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t p = 0; p < s.spatial; ++p) {
        const double pixel_scale = extreme ? std::pow(10.0, span * (2 * uniform(random) - 1)) : 1;
        for (int64_t c = 0; c < s.channels; ++c) {
          const bool odd_one = extreme && uniform(random) < 0.2;
          const double scale = odd_one ? std::pow(10.0, span * (2 * uniform(random) - 1)) : pixel_scale;
          const bool zero = extreme && uniform(random) < 0.05;
          const double v = zero ? 0 : scale * (extreme ? 2 * uniform(random) - 1 : 3 * normal(random));
          x[offset(s, n, c, p)] = Format<T>::from(v);
          grad_y[offset(s, n, c, p)] = Format<T>::from(normal(random));
        }
      }
    }
    solve();
  }

 private:
  void solve() {
    const int64_t C = s.channels;
    const size_t all = static_cast<size_t>(x.size());
    for (auto* v : {&y, &direct, &indirect, &indirect_size, &t}) v->assign(all, 0);
    for (auto* v : {&grad_beta, &grad_beta_size}) v->assign(static_cast<size_t>(C), 0);
    for (auto* v : {&grad_gamma, &grad_gamma_size, &grad_gamma_scale}) v->assign(static_cast<size_t>(C * C), 0);
    std::vector<Real> weight(static_cast<size_t>(C * C)), squares(static_cast<size_t>(C)),
        terms(static_cast<size_t>(C));
    for (int64_t i = 0; i < C * C; ++i) weight[static_cast<size_t>(i)] = gamma.real(i);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int64_t n = pixel / s.spatial, p = pixel % s.spatial;
      const auto at = [&](int64_t c) { return static_cast<size_t>(offset(s, n, c, p)); };
      const auto value = [&](Buffer<T>& b, int64_t c) { return b.real(offset(s, n, c, p)); };
      for (int64_t j = 0; j < C; ++j) squares[static_cast<size_t>(j)] = value(x, j) * value(x, j);
      for (int64_t i = 0; i < C; ++i) {
        Real norm = beta.real(i);
        for (int64_t j = 0; j < C; ++j)
          norm += weight[static_cast<size_t>(i * C + j)] * squares[static_cast<size_t>(j)];
        const Real root = std::sqrt(norm);
        y[at(i)] = value(x, i) / root;
        direct[at(i)] = value(grad_y, i) / root;
        const Real term = -value(grad_y, i) * value(x, i) / (2 * root * root * root);
        terms[static_cast<size_t>(i)] = t[at(i)] = term;
        grad_beta[static_cast<size_t>(i)] += term;
        grad_beta_size[static_cast<size_t>(i)] += std::fabs(term);
        for (int64_t j = 0; j < C; ++j) {
          const size_t ij = static_cast<size_t>(i * C + j);
          grad_gamma[ij] += term * squares[static_cast<size_t>(j)];
          grad_gamma_size[ij] += std::fabs(term) * squares[static_cast<size_t>(j)];
          grad_gamma_scale[ij] += squares[static_cast<size_t>(j)] + 1;
        }
      }
      for (int64_t j = 0; j < C; ++j) {
        for (int64_t i = 0; i < C; ++i) {
          const Real product = terms[static_cast<size_t>(i)] * weight[static_cast<size_t>(i * C + j)];
          indirect[at(j)] += product;
          indirect_size[at(j)] += std::fabs(product);
        }
      }
    }
  }
};

// (C + 2) / 2 + 2, in units of the sums' roundoff.
double inverse_root_roundings(int64_t channels) { return static_cast<double>(channels + 2) / 2 + 2; }

template <class T>
void check_forward(Problem<T>& q) {
  Buffer<T> y(q.x.size());
  const auto result = meon::cuda::gdn_forward<T>({q.s, q.x.data(), q.beta.data(), q.gamma.data(), y.data()}, nullptr);
  CHECK(result.error == cudaSuccess);
  const double u = kRoundoffOfSums<T> * kSecondOrder * inverse_root_roundings(q.s.channels);
  for (int64_t i = 0; i < y.size(); ++i) {
    const Real want = q.y[static_cast<size_t>(i)];
    check_value<T>(y[i], want, u * std::fabs(want) + kTiny<T>);
  }
}

// The most additions that any term of a sum over all pixels goes through.
template <class T>
int64_t longest_chain(const GdnShape& s, int64_t splits) {
  return meon::cuda::dispatch_rows(s.channels, [&](auto rows) {
    using Tile = GdnTile<AccOf<T>, rows>;
    const int64_t tiles = meon::cuda::tiling<T, rows>(s).pixels;
    const int64_t within_tile = Tile::kPixels / Tile::kGroups + 1,
                  within_block = (tiles + splits - 1) / splits + Tile::kGroups;
    const int64_t lanes = meon::cuda::ReduceTile::kLanes;
    return within_tile + within_block + (splits + lanes - 1) / lanes + lanes;
  });
}

template <class T>
double pixels_chain(const Problem<T>& q, int64_t splits) {
  return q.pixels == 0 ? 0 : static_cast<double>(longest_chain<T>(q.s, splits));
}

template <class T>
void check_backward(Problem<T>& q, int64_t splits) {
  const GdnShape& s = q.s;
  const int64_t C = s.channels;
  Buffer<T> grad_x(q.x.size()), grad_beta(C), grad_gamma(C * C);
  Buffer<char> workspace(static_cast<int64_t>(meon::cuda::gdn_backward_workspace_in_splits<T>(s, splits)));
  const GdnBackward<T> p{s,
                         q.grad_y.data(),
                         q.x.data(),
                         q.beta.data(),
                         q.gamma.data(),
                         grad_x.data(),
                         grad_beta.data(),
                         grad_gamma.data()};
  CHECK(meon::cuda::gdn_backward_in_splits<T>(p, workspace.data(), splits, nullptr).error == cudaSuccess);

  const double u = kRoundoffOfSums<T> * kSecondOrder;
  const double root = inverse_root_roundings(C), term = 3 * root + 4;
  for (int64_t i = 0; i < grad_x.size(); ++i) {
    const size_t at = static_cast<size_t>(i);
    const Real x = std::fabs(q.x.real(i));
    const Real want = q.direct[at] + 2 * q.x.real(i) * q.indirect[at];
    // Each of C terms may have been rounded to a multiple of the smallest number before it is multiplied by 2 x.
    const Real lost = 2 * x * static_cast<Real>(C + 1) * 2 * kTiny<T>;
    check_value<T>(
        grad_x[i], want,
        u * ((root + 2) * std::fabs(q.direct[at]) + 2 * x * (term + static_cast<double>(C) + 4) * q.indirect_size[at]) +
            lost + kTiny<T>);
  }
  const double chain = pixels_chain(q, splits);
  for (int64_t i = 0; i < C; ++i) {
    const size_t at = static_cast<size_t>(i);
    check_value<T>(grad_beta[i], q.grad_beta[at],
                   u * (term + chain) * q.grad_beta_size[at] + static_cast<Real>(q.pixels) * kTiny<T>);
  }
  for (int64_t i = 0; i < C * C; ++i) {
    const size_t at = static_cast<size_t>(i);
    check_value<T>(grad_gamma[i], q.grad_gamma[at],
                   u * (term + 2 + chain) * q.grad_gamma_size[at] +
                       kTiny<T> * (q.grad_gamma_scale[at] + q.grad_beta_size[static_cast<size_t>(i / C)]));
  }
}

template <class F>
void for_every_type(F&& f) {
  const auto named = [&](const char* name, auto type) {
    INFO("type " << name);
    f(type);
  };
  named("float", float{});
  named("double", double{});
  named("half", __half{});
  named("bfloat16", __nv_bfloat16{});
}

TEST(forward_and_backward_match_the_oracle) {
  for_every_type([](auto type) {
    using T = decltype(type);
    unsigned seed = 1;
    for (const int64_t channels : {1, 3, 8, 16, 33, 64, 192}) {
      for (const int64_t spatial : {1, 7, 1000}) {
        for (const int64_t batch : {1, 3}) {
          // Those that take longest try nothing that smaller ones do not.
          if (channels > 33 && batch * spatial > 1000) continue;
          if (channels > 64 && batch * spatial < 21) continue;
          if (channels > 33 && kSlow && !std::is_same_v<T, float>) continue;
          for (const bool channels_last : {false, true}) {
            const GdnShape s = shape_of(batch, channels, spatial, channels_last);
            INFO("N=" << batch << " C=" << channels << " S=" << spatial << " channels_last=" << channels_last);
            Problem<T> q(s, Values::kOrdinary, seed++);
            cuda_on_host::options().reverse = seed % 2;
            check_forward(q);
            check_backward(q, meon::cuda::gdn_backward_splits<T>(s));
          }
        }
      }
    }
  });
  cuda_on_host::options().reverse = false;
}

TEST(huge_and_tiny_values_and_beta_at_its_floor) {
  for_every_type([](auto type) {
    using T = decltype(type);
    for (const int64_t channels : {1, 5, 33, 70}) {
      INFO("C=" << channels);
      Problem<T> q(shape_of(2, channels, 150, channels % 2 == 0), Values::kExtreme, static_cast<unsigned>(channels));
      in_both_orders([&] {
        check_forward(q);
        check_backward(q, 2);
      });
    }
  });
}

TEST(blocks_that_work_on_several_tiles) {
  for_every_type([](auto type) {
    using T = decltype(type);
    for (const int64_t channels : {2, 12, 20, 40, 130}) {
      INFO("C=" << channels);
      const GdnShape s = shape_of(3, channels, channels > 16 ? 130 : 500, channels == 20);
      Problem<T> q(s, Values::kOrdinary, 7);
      in_both_orders([&] {
        for (const int64_t splits : {1, 2}) check_backward(q, splits);
      });
    }
  });
}

TEST(long_sums_stay_accurate) {
  const GdnShape s = shape_of(1, 3, 120'000, false);
  Problem<float> q(s, Values::kOrdinary, 11);
  CHECK(longest_chain<float>(s, 4) < 200);  // where one accumulator for all would have 120,000
  check_backward(q, 4);
}

TEST(no_pixels_give_zero_gradients) {
  for_every_type([](auto type) {
    using T = decltype(type);
    for (const int64_t channels : {1, 5, 70}) {
      for (const bool empty_batch : {false, true}) {
        INFO("C=" << channels << " empty_batch=" << empty_batch);
        const GdnShape s = shape_of(empty_batch ? 0 : 4, channels, empty_batch ? 9 : 0, false);
        Problem<T> q(s, Values::kOrdinary, 3);
        check_forward(q);
        CHECK(meon::cuda::gdn_backward_workspace<T>(s) == 0);
        check_backward(q, meon::cuda::gdn_backward_splits<T>(s));  // the oracle's sums over nothing are zero
      }
    }
  });
}

TEST(no_channels_launch_nothing) {
  const GdnShape s = shape_of(2, 0, 5, false);
  CHECK(meon::cuda::gdn_forward<float>({s, nullptr, nullptr, nullptr, nullptr}, nullptr).error == cudaSuccess);
  CHECK(meon::cuda::gdn_backward_workspace<float>(s) == 0);
  CHECK(meon::cuda::gdn_backward<float>({s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr}, nullptr,
                                        nullptr)
            .error == cudaSuccess);
}

TEST(a_pixel_does_not_touch_its_neighbours) {
  for (const int64_t channels : {5, 70}) {
    for (const bool channels_last : {false, true}) {
      INFO("C=" << channels << " channels_last=" << channels_last);
      const GdnShape s = shape_of(2, channels, 60, channels_last);
      Problem<float> q(s, Values::kOrdinary, 5);
      // gamma of zero would hide a NaN in no case, but keep it plain which outputs depend on which inputs.
      for (int64_t i = 0; i < q.gamma.size(); ++i) q.gamma[i] = 0.01f;
      Buffer<float> before(q.x.size()), after(q.x.size());
      const auto run = [&](Buffer<float>& y) {
        const GdnForward<float> p{s, q.x.data(), q.beta.data(), q.gamma.data(), y.data()};
        CHECK(meon::cuda::gdn_forward<float>(p, nullptr).error == cudaSuccess);
      };
      run(before);
      q.x[offset(s, 1, 2, 17)] = std::numeric_limits<float>::quiet_NaN();
      run(after);
      for (int64_t n = 0; n < 2; ++n) {
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t p = 0; p < 60; ++p) {
            const int64_t at = offset(s, n, c, p);
            CHECK(n == 1 && p == 17 ? std::isnan(after[at]) : after[at] == before[at]);
          }
        }
      }
    }
  }
}

// ---- bits, not tolerances ----

template <class T>
struct Outputs {
  Buffer<T> y, grad_x, grad_beta, grad_gamma;

  explicit Outputs(Problem<T>& q)
      : y(q.x.size()), grad_x(q.x.size()), grad_beta(q.s.channels), grad_gamma(q.gamma.size()) {
    Buffer<char> workspace(static_cast<int64_t>(meon::cuda::gdn_backward_workspace<T>(q.s)));
    const auto forward =
        meon::cuda::gdn_forward<T>({q.s, q.x.data(), q.beta.data(), q.gamma.data(), y.data()}, nullptr);
    CHECK(forward.error == cudaSuccess);
    const GdnBackward<T> p{q.s,           q.grad_y.data(),  q.x.data(),       q.beta.data(), q.gamma.data(),
                           grad_x.data(), grad_beta.data(), grad_gamma.data()};
    CHECK(meon::cuda::gdn_backward<T>(p, workspace.data(), nullptr).error == cudaSuccess);
  }
};

TEST(every_run_gives_the_same_bits) {
  for (const int64_t channels : {7, 24, 65}) {
    INFO("C=" << channels);
    Problem<float> q(shape_of(2, channels, 600, false), Values::kOrdinary, 9);
    Outputs<float> first(q);
    in_both_orders([&] {
      Outputs<float> again(q);
      CHECK(same_bits(first.y, again.y));
      CHECK(same_bits(first.grad_x, again.grad_x));
      CHECK(same_bits(first.grad_beta, again.grad_beta));
      CHECK(same_bits(first.grad_gamma, again.grad_gamma));
    });
  }
}

TEST(both_layouts_give_the_same_bits) {
  for (const int64_t channels : {7, 24, 65}) {
    INFO("C=" << channels);
    const GdnShape a = shape_of(2, channels, 77, false), b = shape_of(2, channels, 77, true);
    Problem<float> first(a, Values::kOrdinary, 9), last(b, Values::kOrdinary, 9);  // the same seed: the same values
    Outputs<float> of_first(first), of_last(last);
    for (int64_t n = 0; n < 2; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t p = 0; p < 77; ++p) {
          const int64_t i = offset(a, n, c, p), j = offset(b, n, c, p);
          REQUIRE(first.x[i] == last.x[j]);
          CHECK(of_first.y[i] == of_last.y[j]);
          CHECK(of_first.grad_x[i] == of_last.grad_x[j]);
        }
      }
    }
    CHECK(same_bits(of_first.grad_beta, of_last.grad_beta));
    CHECK(same_bits(of_first.grad_gamma, of_last.grad_gamma));
  }
}

TEST(a_sample_gives_the_same_bits_alone_as_in_a_batch) {
  for (const int64_t channels : {7, 24, 65}) {
    INFO("C=" << channels);
    const int64_t spatial = 77, each = channels * spatial;
    Problem<float> batch(shape_of(3, channels, spatial, false), Values::kOrdinary, 9);
    Problem<float> alone(shape_of(1, channels, spatial, false), Values::kOrdinary, 10);
    const auto copy = [](Buffer<float>& from, int64_t first, Buffer<float>& to) {
      std::memcpy(to.data(), from.data() + first, static_cast<size_t>(to.size()) * sizeof(float));
    };
    copy(batch.x, 2 * each, alone.x);
    copy(batch.grad_y, 2 * each, alone.grad_y);
    copy(batch.beta, 0, alone.beta);
    copy(batch.gamma, 0, alone.gamma);
    Outputs<float> of_batch(batch), of_alone(alone);
    for (int64_t i = 0; i < each; ++i) {
      CHECK(of_batch.y[2 * each + i] == of_alone.y[i]);
      CHECK(of_batch.grad_x[2 * each + i] == of_alone.grad_x[i]);
    }
  }
}

// ---- sizes ----

// Runs only the block that the last pixel and the last channel fall to, in tensors whose offsets need more than 32
// bits.
TEST(offsets_beyond_32_bits) {
  struct Large {
    int64_t batch, channels, spatial;
    bool channels_last;
  };
  for (const Large large : {Large{1, 3, 1'500'000'001, false}, Large{1, 3, 1'500'000'001, true},
                            Large{50'000'001, 8, 11, false}, Large{2, 65, 34'000'001, false}}) {
    INFO("C=" << large.channels << " channels_last=" << large.channels_last);
    const GdnShape s = shape_of(large.batch, large.channels, large.spatial, large.channels_last);
    const int64_t C = s.channels, all = s.batch * C * s.spatial;
    REQUIRE(all > int64_t{1} << 32);
    SparseBuffer<float> x(all), grad_y(all), y(all), grad_x(all), inverse(all);
    // The same last pixel in a problem small enough for the oracle.
    Problem<float> q(shape_of(1, C, 1, false), Values::kOrdinary, 21);
    const int64_t last = s.spatial - 1, n = s.batch - 1;
    for (int64_t c = 0; c < C; ++c) {
      x[offset(s, n, c, last)] = q.x[c];
      grad_y[offset(s, n, c, last)] = q.grad_y[c];
    }
    const auto run_last_block = [&](auto kernel, int64_t tiles, int64_t rows, auto... args) {
      for (int64_t row = 0; row < rows; ++row) {
        cuda_on_host::options().only_block = uint3{static_cast<unsigned>(tiles - 1), static_cast<unsigned>(row), 0};
        const auto result = meon::cuda::launch("", kernel, {tiles, rows}, meon::cuda::kGdnThreads, nullptr, args...);
        cuda_on_host::options().only_block.reset();
        CHECK(result.error == cudaSuccess);
      }
    };
    const GdnForward<float> forward{s, x.data(), q.beta.data(), q.gamma.data(), y.data()};
    const GdnBackward<float> backward{s,       grad_y.data(), x.data(), q.beta.data(), q.gamma.data(), grad_x.data(),
                                      nullptr, nullptr};
    meon::cuda::dispatch_rows(C, [&](auto rows) {
      const auto t = meon::cuda::tiling<float, rows>(s);
      run_last_block(meon::cuda::gdn_forward_kernel<float, rows>, t.pixels, t.rows, forward);
      if (C > rows) {
        run_last_block(meon::cuda::gdn_inverse_norm_kernel<float, rows>, t.pixels, t.rows, backward, inverse.data());
        run_last_block(meon::cuda::gdn_input_gradient_kernel<float, rows>, t.pixels, t.rows, backward, inverse.data());
      } else {
        SparseBuffer<float> partials(t.pixels * meon::cuda::gdn_partial_size(C));
        run_last_block(meon::cuda::gdn_backward_kernel<float, rows>, t.pixels, 1, backward, t.pixels, partials.data());
        for (int64_t i = 0; i < C; ++i) {
          // beta's part of the last partial sum; the other pixels of the tile are zero and add nothing
          const float got = partials[(t.pixels - 1) * meon::cuda::gdn_partial_size(C) + C * C + i];
          CHECK_CLOSE(got, q.grad_beta[static_cast<size_t>(i)], 1e-5 * q.grad_beta_size[static_cast<size_t>(i)]);
        }
      }
    });
    for (int64_t c = 0; c < C; ++c) {
      const size_t at = static_cast<size_t>(c);
      const Real dx = q.direct[at] + 2 * q.x.real(c) * q.indirect[at];
      CHECK_CLOSE(y[offset(s, n, c, last)], q.y[at], 1e-4 * std::fabs(q.y[at]));
      CHECK_CLOSE(grad_x[offset(s, n, c, last)], dx,
                  1e-4 * (std::fabs(q.direct[at]) + 2 * std::fabs(q.x.real(c)) * q.indirect_size[at]));
    }
  }
}

TEST(a_grid_that_cuda_cannot_count_is_refused_by_name) {
  const GdnShape s = shape_of(1, 1, int64_t{1} << 42, false);
  const auto result = meon::cuda::gdn_forward<float>({s, nullptr, nullptr, nullptr, nullptr}, nullptr);
  CHECK(result.error == cudaErrorInvalidConfiguration);
  CHECK(std::string(result.kernel) == "gdn_forward_kernel");
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
