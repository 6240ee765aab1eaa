#include "core/parallel.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace meon {
namespace {

int usable_processors() {
#ifdef __linux__
  // A container or taskset often grants fewer processors than the machine has.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

void FirstError::keep_current() {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = std::current_exception();
}

void FirstError::rethrow() const {
  if (error_) std::rethrow_exception(error_);
}

void Serial::for_each(int64_t count, const std::function<void(int64_t)>& task) const {
  for (int64_t i = 0; i < count; ++i) task(i);
}

Threads::Threads(int threads) : threads_(threads > 0 ? threads : usable_processors()) {}

void Threads::for_each(int64_t count, const std::function<void(int64_t)>& task) const {
  const int workers = static_cast<int>(std::min<int64_t>(count, threads_));
  if (workers <= 1) return Serial().for_each(count, task);

  std::atomic<int64_t> next{0};
  FirstError error;
  auto work = [&] {
    try {
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
    } catch (...) {
      next.store(count);  // The others stop after the task in hand.
      error.keep_current();
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<size_t>(workers - 1));
  try {
    for (int i = 1; i < workers; ++i) pool.emplace_back(work);
  } catch (const std::exception&) {
    // The process is at its limit of threads or of memory: those that did start, and this one, do all the work.
  }
  work();
  for (auto& thread : pool) thread.join();
  error.rethrow();
}

}  // namespace meon
