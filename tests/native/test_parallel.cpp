// Sharing out work.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "core/parallel.h"

using meon::Parallel;
using meon::Serial;
using meon::Threads;

// Of this thread: how many allocations still succeed; negative: all do.
static thread_local int allocations_left = -1;

void* operator new(size_t size) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

void check_each_index_once(const Parallel& parallel, int64_t count) {
  std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
  std::atomic<int64_t> outside{0};
  parallel.for_each(count, [&](int64_t i) {
    if (i < 0 || i >= count) {
      ++outside;
    } else {
      ++calls[static_cast<size_t>(i)];
    }
  });
  CHECK(outside == 0);
  int64_t wrong = 0;
  for (const auto& c : calls) wrong += c != 1;
  CHECK(wrong == 0);
}

}  // namespace

TEST(each_index_once) {
  for (const int64_t count : {0, 1, 2, 3, 7, 64, 1000}) {
    INFO("count " << count);
    check_each_index_once(Serial(), count);
    for (const int threads : {1, 2, 3, 8, 64}) {  // more threads than tasks, too
      INFO("threads " << threads);
      check_each_index_once(Threads(threads), count);
    }
  }
}

TEST(negative_count_does_nothing) {
  int calls = 0;
  for (const int threads : {1, 4}) Threads(threads).for_each(-3, [&](int64_t) { ++calls; });
  Serial().for_each(-3, [&](int64_t) { ++calls; });
  CHECK(calls == 0);
}

TEST(results_are_seen_after_the_call) {
  // Plain memory, one element for each task: ThreadSanitizer reports it if the join did not order the accesses.
  std::vector<int64_t> squares(500);
  Threads(4).for_each(500, [&](int64_t i) { squares[static_cast<size_t>(i)] = i * i; });
  int64_t sum = 0;
  for (const int64_t s : squares) sum += s;
  CHECK(sum == 499 * 500 * 999 / 6);
}

TEST(exceptions_are_rethrown) {
  const Serial serial;
  const Threads one(1), three(3), eight(8);
  for (const Parallel* parallel : {static_cast<const Parallel*>(&serial), static_cast<const Parallel*>(&one),
                                   static_cast<const Parallel*>(&three), static_cast<const Parallel*>(&eight)}) {
    for (const int64_t bad : {0, 5, 99}) {
      INFO("task " << bad);
      CHECK_THROWS(std::runtime_error, "task " + std::to_string(bad), parallel->for_each(100, [&](int64_t i) {
        if (i == bad) throw std::runtime_error("task " + std::to_string(i));
      }));
    }
    // All throw: one of them arrives, and the rest of the tasks are given up.
    std::atomic<int> started{0};
    CHECK_THROWS(std::logic_error, "bad", parallel->for_each(100000, [&](int64_t) {
      ++started;
      throw std::logic_error("bad");
    }));
    CHECK(started <= parallel->threads());
    check_each_index_once(*parallel, 50);  // and it still works
  }
}

TEST(tasks_run_at_the_same_time) {
  // Each of two tasks waits until the other has begun: with one thread that would not end.
  std::atomic<int> begun{0};
  Threads(2).for_each(2, [&](int64_t) {
    ++begun;
    while (begun < 2) std::this_thread::yield();
  });
  CHECK(begun == 2);
}

TEST(calls_may_nest) {
  std::atomic<int64_t> calls{0};
  const Threads parallel(3);
  parallel.for_each(5, [&](int64_t) { parallel.for_each(7, [&](int64_t) { ++calls; }); });
  CHECK(calls == 35);
}

// A thread that cannot be started for lack of memory is done without, as one too many is. None is left running: that
// would end the process.
TEST(memory_may_run_out_while_threads_start) {
  bool enough = false;
  for (int allocations = 0; !enough; ++allocations) {
    INFO("allocations " << allocations);
    REQUIRE(allocations < 100);
    std::vector<std::atomic<int>> calls(100);
    bool out_of_memory = false;
    allocations_left = allocations;
    try {
      Threads(4).for_each(100, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    enough = allocations_left > 0;
    allocations_left = -1;
    CHECK(std::all_of(calls.begin(), calls.end(), [&](const auto& c) { return c == (out_of_memory ? 0 : 1); }));
  }
}

TEST(number_of_threads) {
  CHECK(Serial().threads() == 1);
  CHECK(Threads(5).threads() == 5);
  for (const int all : {0, -1}) {
    CHECK(Threads(all).threads() >= 1);
    CHECK(Threads(all).threads() <= std::max(1U, std::thread::hardware_concurrency()));
  }
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
