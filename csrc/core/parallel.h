// How kernels share work out, without knowing whose threads they run on: torch's pool inside a torch op,
// plain threads inside the NumPy module, the calling thread in a test.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>

namespace meon {

class Parallel {
 public:
  Parallel() = default;
  Parallel(const Parallel&) = delete;
  Parallel& operator=(const Parallel&) = delete;
  virtual ~Parallel() = default;

  // Calls task(i) once for each i in [0, count), in any order, perhaps several at a time. Returns when all are
  // done; the first exception thrown by a task is rethrown here. A kernel's result must not depend on the order,
  // so whatever is summed over tasks is summed by the caller afterwards, in index order.
  virtual void for_each(int64_t count, const std::function<void(int64_t)>& task) const = 0;

  // How many tasks may run at a time. For deciding how finely to cut the work, never for what a task computes.
  virtual int64_t threads() const = 0;
};

// The first exception of several threads, for the one that waits for them.
class FirstError {
 public:
  void keep_current();   // in a catch block, of any thread
  void rethrow() const;  // when all are done; nothing where there was none

 private:
  std::exception_ptr error_;
  std::mutex mutex_;
};

class Serial final : public Parallel {
 public:
  void for_each(int64_t count, const std::function<void(int64_t)>& task) const override;
  int64_t threads() const override { return 1; }
};

// Starts up to `threads` threads for each call and joins them before it returns. No pool outlives a call, so a
// process that forks (DataLoader workers) never inherits a pool whose threads are gone.
class Threads final : public Parallel {
 public:
  // threads <= 0: as many as processors this process may run on.
  explicit Threads(int threads);
  void for_each(int64_t count, const std::function<void(int64_t)>& task) const override;
  int64_t threads() const override { return threads_; }

 private:
  int threads_;
};

}  // namespace meon
