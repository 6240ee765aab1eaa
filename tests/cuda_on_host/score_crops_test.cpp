// Crops that share their work, on the host: to the bit what the kernels make of each crop alone, which
// conv_gdn_pool_test.cpp and heads_test.cpp compare with oracles. The first stage on tensor cores is compared here.
#include "cuda/score_crops.cu"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/crop_plan.h"
#include "cuda/conv_gdn_pool.cu"
#include "cuda/heads.cu"
#include "device.h"
#include "native/inputs.h"
#include "native/oracle.h"

namespace {

using cuda_on_host::Buffer;
using cuda_on_host::same_bits;
using cuda_on_host::SparseBuffer;
using meon::AxisTables;
using meon::kPadding;
using meon::cuda::PlanAxis;
using meon::cuda::PlanSource;
using meon::test::fresh_seed;
using meon::test::Random;

template <class T>
Buffer<T> copied(const std::vector<T>& from) {
  Buffer<T> to(static_cast<int64_t>(from.size()));
  std::copy(from.begin(), from.end(), to.data());
  return to;
}

// ---- one stage, any tables ----

struct StageBuffers {
  Buffer<float> weight, bias, beta, gamma;
  StageBuffers(int stage, Random& random) : StageBuffers(meon::kStages[static_cast<size_t>(stage)], random) {}
  StageBuffers(const meon::StageSpec& s, Random& random)
      : weight(copied(random.normal<float>(s.out_channels * s.in_channels * s.kernel * s.kernel,
                                           1 / std::sqrt(static_cast<double>(s.in_channels * s.kernel * s.kernel))))),
        bias(copied(random.normal<float>(s.out_channels, 0.1))),
        beta(copied(random.uniform<float>(s.out_channels, 0.1, 0.2))),
        gamma(copied(random.gamma<float>(s.out_channels))) {}
  meon::cuda::StageWeights weights() { return {weight.data(), bias.data(), beta.data(), gamma.data()}; }
};

// `places` windows of a stage with padding 2: the first two entries and the last are padding, as a sample's rim is.
std::vector<int32_t> random_entries(int64_t places, int64_t limit, Random& random) {
  std::vector<int32_t> entries(static_cast<size_t>(4 * places + 3), kPadding);
  for (size_t i = 2; i + 1 < entries.size(); ++i) {
    entries[i] = static_cast<int32_t>(random.integer(random.integer(0, 9) == 0 ? -1 : 0, limit - 1));
  }
  return entries;
}

// Planes [images, channels, height, width] and tables that choose from them.
template <class T>
struct Chosen {
  int64_t images, channels, height, width;
  Buffer<T> planes;
  std::vector<int32_t> rows, columns;

  T at(int64_t image, int64_t channel, int64_t row, int64_t column) {
    return planes[((image * channels + channel) * height + row) * width + column];
  }
  // What the tables choose, without the rim: [images, channels, rows - 3, columns - 3].
  std::vector<float> gathered() {
    std::vector<float> x;
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t c = 0; c < channels; ++c) {
        for (size_t i = 2; i + 1 < rows.size(); ++i) {
          for (size_t j = 2; j + 1 < columns.size(); ++j) {
            const bool padding = rows[i] == kPadding || columns[j] == kPadding;
            x.push_back(padding ? 0 : static_cast<float>(at(n, c, rows[i], columns[j])));
          }
        }
      }
    }
    return x;
  }
};

template <class T>
Chosen<T> choose(int stage, int64_t rows, int64_t columns, Random& random) {
  const int64_t channels = meon::kStages[static_cast<size_t>(stage)].in_channels;
  Chosen<T> out{2,
                channels,
                21,
                17,
                Buffer<T>(2 * channels * 21 * 17),
                random_entries(rows, 21, random),
                random_entries(columns, 17, random)};
  for (int64_t i = 0; i < out.planes.size(); ++i) {
    if constexpr (std::is_same_v<T, uint8_t>) {
      out.planes[i] = static_cast<uint8_t>(random.integer(0, 255));
    } else {
      out.planes[i] = random.normal<float>(1)[0];
    }
  }
  return out;
}

int64_t places_in(const std::vector<int32_t>& entries) { return static_cast<int64_t>(entries.size()) / 4; }

// y: [images, kOut, places of rows, places of columns]. Strides of the planes as a source has them.
// kRows: of a tile on tensor cores; 0: as the launcher has it.
template <int kStage, bool kTensorCores = false, int kRows = 0, class T>
Buffer<float> run_chosen(Chosen<T>& in, T* planes, std::array<int64_t, 4> strides, StageBuffers& stage) {
  Buffer<int32_t> rows = copied(in.rows), columns = copied(in.columns);
  const PlanSource<T, 2> source{planes,
                                in.images,
                                strides[0],
                                strides[1],
                                strides[2],
                                strides[3],
                                {rows.data(), 1, static_cast<int>(rows.size()), static_cast<int>(in.height)},
                                {columns.data(), 1, static_cast<int>(columns.size()), static_cast<int>(in.width)}};
  const int64_t r = places_in(in.rows), c = places_in(in.columns);
  Buffer<float> y(in.images * meon::kStages[kStage].out_channels * r * c);
  if constexpr (kRows > 0) {
    const meon::cuda::StageShape s{in.images, 0, 0, static_cast<int>(r), static_cast<int>(c)};
    CHECK(meon::cuda::run_byte_stage_in<kRows>(
              s, source, {stage.weight.data(), stage.bias.data(), stage.beta.data(), stage.gamma.data()}, y.data(),
              nullptr)
              .error == cudaSuccess);
  } else if constexpr (kTensorCores) {
    CHECK(meon::cuda::run_byte_stage(stage.weights(), source, in.images, r, c, y.data(), nullptr).error == cudaSuccess);
  } else {
    CHECK(meon::cuda::run_stage<kStage>(stage.weights(), source, in.images, r, c, y.data(), nullptr).error ==
          cudaSuccess);
  }
  return y;
}

template <int kStage, class T>
Buffer<float> run_planar(Chosen<T>& in, StageBuffers& stage) {
  const int64_t rows = static_cast<int64_t>(in.rows.size()) - 3, columns = static_cast<int64_t>(in.columns.size()) - 3;
  meon::ConvShape s = meon::stage_shape(meon::kStages[kStage], in.images, rows);
  s.in_w = columns;
  Buffer<float> x = copied(in.gathered()), y(in.images * s.out_channels * s.out_h() * s.out_w());
  CHECK(meon::cuda::conv_gdn_pool_forward<float>(
            {s, x.data(), stage.weight.data(), stage.bias.data(), stage.beta.data(), stage.gamma.data(), y.data()},
            nullptr)
            .error == cudaSuccess);
  return y;
}

template <int kStage, class T>
void check_chosen(Random& random) {
  INFO("stage " << kStage + 1);
  for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 18}, {17, 2}}) {
    Chosen<T> in = choose<T>(kStage, rows, columns, random);
    StageBuffers stage(kStage, random);
    Buffer<float> want = run_planar<kStage>(in, stage);
    const int64_t plane = in.height * in.width;
    Buffer<float> got = run_chosen<kStage>(in, in.planes.data(), {in.channels * plane, plane, in.width, 1}, stage);
    CHECK(same_bits(got, want));
    // The same planes with their channels innermost, as an image HWC has them.
    Buffer<T> last(in.planes.size());
    for (int64_t i = 0; i < last.size(); ++i) {
      const int64_t c = i % in.channels, at = i / in.channels;
      last[i] = in.at(at / plane, c, at % plane / in.width, at % in.width);
    }
    got = run_chosen<kStage>(in, last.data(), {in.channels * plane, 1, in.width * in.channels, in.channels}, stage);
    CHECK(same_bits(got, want));
  }
}

TEST(rows_and_columns_are_chosen_by_the_tables) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  check_chosen<0, uint8_t>(random);
  check_chosen<1, float>(random);
  check_chosen<2, float>(random);
}

// AddressSanitizer sees a read outside of the planes.
template <bool kTensorCores>
void check_bad_entries() {
  INFO((kTensorCores ? "on tensor cores" : "plain"));
  Random random(2);
  constexpr int32_t kLast = std::numeric_limits<int32_t>::max();
  for (const bool of_rows : {true, false}) {
    for (const int32_t bad : {-2, -kLast, of_rows ? 21 : 17, kLast}) {
      INFO("entry " << bad << (of_rows ? " of the rows" : " of the columns"));
      Chosen<uint8_t> in = choose<uint8_t>(0, 5, 6, random);
      StageBuffers stage(0, random);
      const auto run = [&] {
        return run_chosen<0, kTensorCores>(in, in.planes.data(), {3 * 21 * 17, 21 * 17, 17, 1}, stage);
      };
      Buffer<float> before = run();
      (of_rows ? in.rows : in.columns)[11] = bad;  // of window 2 alone, 8..14, and next to window 1, 4..10
      Buffer<float> after = run();
      for (int64_t i = 0; i < after.size(); ++i) {
        const int64_t window = of_rows ? i / 6 % 5 : i % 6;
        CHECK(window == 2 ? std::isnan(after[i]) : after[i] == before[i]);
      }
    }
  }
}

TEST(an_entry_outside_of_the_planes_gives_nan_and_reads_nothing) {
  check_bad_entries<false>();
  check_bad_entries<true>();
}

// The tolerance is that of a sum of 76 terms in float, as for the plain kernel; the tensor cores' sums have 226 terms,
// whose worst case is three times as much, but exact products.
TEST(the_first_stage_on_tensor_cores_matches_the_oracle) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 18}, {17, 9}}) {
    for (const double scale : {1.0, 1e-12, 1e9}) {
      INFO(rows << " x " << columns << ", scale " << scale);
      Chosen<uint8_t> in = choose<uint8_t>(0, rows, columns, random);
      StageBuffers stage(0, random);
      for (int64_t i = 0; i < stage.weight.size(); ++i) stage.weight[i] *= static_cast<float>(scale);
      cuda_on_host::options().reverse = random.integer(0, 1) == 1;
      Buffer<float> got = run_chosen<0, true>(in, in.planes.data(), {3 * 21 * 17, 21 * 17, 17, 1}, stage);
      Buffer<float> of_large_tiles =
          run_chosen<0, true, meon::cuda::kManyRows>(in, in.planes.data(), {3 * 21 * 17, 21 * 17, 17, 1}, stage);
      CHECK(same_bits(of_large_tiles, got));
      meon::ConvShape s = meon::stage_shape(meon::kStages[0], in.images, 4 * rows);
      s.in_w = 4 * columns;
      const auto values = [](Buffer<float>& b) { return std::vector<float>(b.data(), b.data() + b.size()); };
      const meon::test::StageOracle<float> oracle{
          s, in.gathered(), values(stage.weight), values(stage.bias), values(stage.beta), values(stage.gamma)};
      const auto want = oracle.forward();
      REQUIRE(static_cast<int64_t>(want.size()) == got.size());
      for (int64_t i = 0; i < got.size(); ++i) meon::test::agrees(got[i], want[static_cast<size_t>(i)]);
    }
  }
  cuda_on_host::options().reverse = false;
}

TEST(a_weight_is_three_parts_of_eight_bits) {
  Random random(5);
  std::vector<float> weights = random.normal<float>(1000);
  weights.insert(weights.end(), {0.0f, -0.0f, 0x1.fffffep127f, -0x1.fffffep-100f, 0x1.000002p0f, 0x1p-126f});
  for (const float weight : weights) {
    float left = weight, sum = 0;
    for (int part = 0; part < meon::cuda::ByteTile<meon::cuda::kManyRows>::kParts; ++part) {
      const float taken = meon::cuda::take_part(left);
      CHECK((meon::cuda::bits_of(taken) & 0xffffu) == 0);
      sum += taken;
    }
    CHECK(left == 0 && sum == weight);
  }
}

TEST(tensor_cores_are_used_where_the_code_is_for_them) {
  const auto kernel = meon::cuda::byte_stage_kernel<PlanSource<uint8_t, 2>, meon::cuda::kManyRows>;
  for (const auto& [version, used] : {std::pair{75, false}, {80, true}, {120, true}, {0, false}}) {
    cuda_on_host::options().ptx_version = version;
    CHECK(meon::cuda::kernel_uses_mma(kernel) == used);
  }
  cuda_on_host::options().ptx_version = 75;
}

// ---- the whole network ----

struct DeviceTables {
  std::vector<Buffer<int32_t>> inputs;
  Buffer<int32_t> crops;
  meon::cuda::CropAxisTables view;

  explicit DeviceTables(const std::vector<int64_t>& offsets) : DeviceTables(AxisTables(meon::AxisPlan(offsets))) {
    view.count = static_cast<int64_t>(offsets.size());
  }

 private:
  explicit DeviceTables(const AxisTables& tables) : crops(copied(tables.crops)) {
    for (size_t s = 0; s < meon::kSharedStages; ++s) {
      inputs.push_back(copied(tables.inputs[s]));
      view.inputs[s] = inputs.back().data();
      view.places[s] = tables.places(static_cast<int>(s));
    }
    view.crops = crops.data();
  }
};

struct HeadBuffers {
  Buffer<float> weight, bias, beta, gamma, out_weight, out_bias;
  HeadBuffers(int64_t hidden, int64_t classes, Random& random)
      : weight(copied(random.normal<float>(hidden * meon::kFeatures, 0.125))),
        bias(copied(random.normal<float>(hidden, 0.1))),
        beta(copied(random.uniform<float>(hidden, 0.1, 0.2))),
        gamma(copied(random.gamma<float>(hidden))),
        out_weight(copied(random.normal<float>(classes * hidden, 0.2))),
        out_bias(copied(random.normal<float>(classes, 0.1))) {}
  meon::cuda::HeadParameters parameters() {
    return {weight.data(), bias.data(), beta.data(), gamma.data(), out_weight.data(), out_bias.data()};
  }
};

struct Network {
  static constexpr int64_t kClasses = 5;
  std::vector<StageBuffers> stages;
  HeadBuffers type, quality;
  explicit Network(Random& random)
      : type(meon::kTypeHidden, kClasses, random), quality(meon::kQualityHidden, kClasses, random) {
    for (int s = 0; s < 4; ++s) stages.emplace_back(s, random);
  }
};

// [images, crops, 1 + classes]
Buffer<float> score(Network& net, meon::cuda::Images images, const std::vector<int64_t>& rows,
                    const std::vector<int64_t>& columns) {
  DeviceTables row_tables(rows), column_tables(columns);
  meon::cuda::CropScoring p;
  p.images = images;
  p.rows = row_tables.view;
  p.columns = column_tables.view;
  for (size_t s = 0; s < 4; ++s) p.stages[s] = net.stages[s].weights();
  p.type = net.type.parameters();
  p.quality = net.quality.parameters();
  p.classes = Network::kClasses;
  Buffer<float> answers(p.crops() * (1 + p.classes));
  p.answers = answers.data();
  Buffer<char> workspace(static_cast<int64_t>(meon::cuda::score_crops_workspace(p)));
  CHECK(meon::cuda::score_crops(p, workspace.data(), nullptr).error == cudaSuccess);
  return answers;
}

// Of an image [height, width, 3]: the kernels that know of no sharing, stage by stage.
Buffer<float> score_alone(Network& net, const uint8_t* image, int64_t height, int64_t width,
                          const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  std::vector<int64_t> boxes;
  for (const int64_t y : rows) {
    for (const int64_t x : columns) boxes.insert(boxes.end(), {x, y, x + 256, y + 256});
  }
  const auto count = static_cast<int64_t>(boxes.size()) / 4;
  std::vector<Buffer<float>> maps;
  int64_t side = 256;
  for (size_t s = 0; s < 4; ++s) {
    StageBuffers& w = net.stages[s];
    const meon::ConvShape shape = meon::stage_shape(meon::kStages[s], count, side);
    maps.emplace_back(count * shape.out_channels * shape.out_h() * shape.out_w());
    const auto result =
        s == 0 ? meon::cuda::crop_conv_gdn_pool_forward<float>({shape,
                                                                {image, width, boxes.data(), height},
                                                                w.weight.data(),
                                                                w.bias.data(),
                                                                w.beta.data(),
                                                                w.gamma.data(),
                                                                maps[s].data()},
                                                               nullptr)
               : meon::cuda::conv_gdn_pool_forward<float>({shape, maps[s - 1].data(), w.weight.data(), w.bias.data(),
                                                           w.beta.data(), w.gamma.data(), maps[s].data()},
                                                          nullptr);
    CHECK(result.error == cudaSuccess);
    side = shape.out_h();
  }
  Buffer<float> answers(count * (1 + Network::kClasses));
  CHECK(meon::cuda::heads_forward({count, Network::kClasses, maps.back().data(), net.type.parameters(),
                                   net.quality.parameters(), answers.data()},
                                  nullptr)
            .error == cudaSuccess);
  return answers;
}

// Rows on one lattice and off it, two images, both orders in memory.
TEST(crops_that_share_give_the_bits_of_each_alone) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  Network net(random);
  const std::vector<int64_t> rows{0, 64, 67}, columns{0, random.integer(1, 33)};
  const int64_t height = rows.back() + 256, width = columns.back() + 256, numel = height * width * 3;
  Buffer<uint8_t> images = copied(random.bytes(2 * numel));
  Buffer<float> got = score(net, {images.data(), 2, height, width, numel, 1, 3 * width, 3}, rows, columns);
  const int64_t each = got.size() / 2;
  for (int64_t n = 0; n < 2; ++n) {
    Buffer<float> want = score_alone(net, images.data() + n * numel, height, width, rows, columns);
    REQUIRE(want.size() == each);
    CHECK(std::memcmp(want.data(), got.data() + n * each, static_cast<size_t>(each) * sizeof(float)) == 0);
    for (int64_t i = 0; i < each; ++i) CHECK(std::isfinite(want[i]));
  }
  // One crop alone, of the second image, planar.
  Buffer<uint8_t> planar(numel);
  for (int64_t i = 0; i < numel; ++i) planar[i % 3 * height * width + i / 3] = images[numel + i];
  Buffer<float> one =
      score(net, {planar.data(), 1, height, width, numel, height * width, width, 1}, {rows.back()}, {columns.back()});
  for (int64_t i = 0; i < one.size(); ++i) CHECK(one[i] == got[got.size() - one.size() + i]);
}

TEST(crops_on_tensor_cores_give_the_bits_of_each_alone) {
  Random random(6);
  Network net(random);
  const std::vector<int64_t> rows{0, 8};
  Buffer<uint8_t> image = copied(random.bytes(264 * 256 * 3));
  const auto run = [&](int version, const std::vector<int64_t>& some) {
    cuda_on_host::options().ptx_version = version;
    Buffer<float> answers = score(net, {image.data(), 1, 264, 256, 0, 1, 3 * 256, 3}, some, {0});
    cuda_on_host::options().ptx_version = 75;
    return answers;
  };
  Buffer<float> plain = run(75, rows), got = run(80, rows);
  CHECK(!same_bits(got, plain));  // else these were not the tensor cores
  for (int64_t i = 0; i < got.size(); ++i) CHECK_CLOSE(got[i], plain[i], 1e-3);
  for (size_t k = 0; k < rows.size(); ++k) {
    Buffer<float> alone = run(80, {rows[k]});
    for (int64_t i = 0; i < alone.size(); ++i) CHECK(alone[i] == got[static_cast<int64_t>(k) * alone.size() + i]);
  }
}

TEST(no_crops_and_no_images) {
  Random random(3);
  Network net(random);
  CHECK(score(net, {nullptr, 0, 300, 300}, {0, 44}, {0}).size() == 0);
  CHECK(score(net, {nullptr, 1, 300, 300}, {}, {0}).size() == 0);
}

// ---- sizes ----

// The last pixels of a planar image whose offsets need more than 32 bits, and of its first stage's planes.
TEST(offsets_beyond_32_bits) {
  Random random(4);
  constexpr int64_t kSide = 50'000;
  StageBuffers first(0, random), second(1, random);
  SparseBuffer<uint8_t> image(3 * kSide * kSide);
  SparseBuffer<float> planes(8 * kSide * kSide);
  Chosen<uint8_t> small_image = choose<uint8_t>(0, 2, 2, random);
  Chosen<float> small_planes = choose<float>(1, 2, 2, random);
  const auto check = [&](auto stage, auto& small, auto& large, StageBuffers& weights) {
    constexpr int kStage = decltype(stage)::value;
    small.images = 1;
    const int64_t plane = small.height * small.width;
    Buffer<float> want = run_chosen<kStage>(small, small.planes.data(), {0, plane, small.width, 1}, weights);
    // The small planes in the last corner of the large ones.
    for (int64_t c = 0; c < small.channels; ++c) {
      for (int64_t i = 0; i < plane; ++i) {
        const int64_t row = kSide - small.height + i / small.width, column = kSide - small.width + i % small.width;
        large[(c * kSide + row) * kSide + column] = small.planes[c * plane + i];
      }
    }
    for (int32_t& entry : small.rows) entry += entry == kPadding ? 0 : static_cast<int32_t>(kSide - small.height);
    for (int32_t& entry : small.columns) entry += entry == kPadding ? 0 : static_cast<int32_t>(kSide - small.width);
    small.height = small.width = kSide;
    Buffer<float> got = run_chosen<kStage>(small, large.data(), {0, kSide * kSide, kSide, 1}, weights);
    CHECK(same_bits(got, want));
  };
  check(std::integral_constant<int, 0>{}, small_image, image, first);
  check(std::integral_constant<int, 1>{}, small_planes, planes, second);
}

// Two windows in the last corner of outputs with more than 2^31 elements.
template <bool kTensorCores>
void check_last_outputs() {
  using namespace meon::cuda;
  INFO((kTensorCores ? "on tensor cores" : "plain"));
  Random random(7);
  constexpr int64_t kPlaces = 20'000;
  StageBuffers stage(0, random);
  Chosen<uint8_t> in = choose<uint8_t>(0, 2, 2, random);
  in.images = 1;
  const int64_t plane = in.height * in.width;
  Buffer<float> want = run_chosen<0, kTensorCores>(in, in.planes.data(), {0, plane, in.width, 1}, stage);
  const auto at_the_end = [](const std::vector<int32_t>& entries) {
    std::vector<int32_t> all(4 * kPlaces + 3, kPadding);
    std::copy(entries.begin(), entries.end(), all.end() - static_cast<std::ptrdiff_t>(entries.size()));
    return copied(all);
  };
  Buffer<int32_t> rows = at_the_end(in.rows), columns = at_the_end(in.columns);
  const PlanSource<uint8_t, 2> source{
      in.planes.data(),
      1,
      0,
      plane,
      in.width,
      1,
      {rows.data(), 1, static_cast<int>(rows.size()), static_cast<int>(in.height)},
      {columns.data(), 1, static_cast<int>(columns.size()), static_cast<int>(in.width)}};
  SparseBuffer<float> y(8 * kPlaces * kPlaces);
  const StageShape s{1, 0, 0, kPlaces, kPlaces};
  cuda_on_host::options().only_block = uint3{static_cast<unsigned>(tile_count<StageTile<0>>(s) - 1), 0, 0};
  const auto result = kTensorCores ? run_byte_stage(stage.weights(), source, 1, kPlaces, kPlaces, y.data(), nullptr)
                                   : run_stage<0>(stage.weights(), source, 1, kPlaces, kPlaces, y.data(), nullptr);
  cuda_on_host::options().only_block.reset();
  CHECK(result.error == cudaSuccess);
  for (int64_t i = 0; i < want.size(); ++i) {
    const int64_t row = kPlaces - 2 + i / 2 % 2, column = kPlaces - 2 + i % 2;
    CHECK(y[(i / 4 * kPlaces + row) * kPlaces + column] == want[i]);
  }
}

TEST(outputs_beyond_32_bits) {
  check_last_outputs<false>();
  check_last_outputs<true>();
}

TEST(the_workspace_holds_what_the_stages_write) {
  meon::cuda::CropScoring p;
  p.images.count = 3;
  p.rows.count = 5, p.columns.count = 7;
  p.rows.places = {11, 13, 17}, p.columns.places = {1 << 20, 1 << 18, 1 << 16};
  const int64_t each = 8 * (int64_t{11} << 20) + 16 * (int64_t{13} << 18) + 32 * (int64_t{17} << 16);
  CHECK(static_cast<int64_t>(meon::cuda::score_crops_workspace(p)) == 4 * (3 * each + 3 * 5 * 7 * 64));
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
