#include "cuda_on_host.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#if defined(CUDA_ON_HOST_THREADS)
#include <barrier>
#include <mutex>
#include <thread>
#else
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#endif

constinit thread_local uint3 threadIdx = {}, blockIdx = {};
constinit thread_local dim3 blockDim = {}, gridDim = {};

namespace cuda_on_host {
namespace {

cudaError_t last_error = cudaSuccess;
std::string failure;

// The running block.
struct Block {
  uint3 index = {};
  dim3 size, grid;
  int threads = 0;
  const std::function<void()>* body = nullptr;

  // Allocated on first use and to the byte, so that AddressSanitizer sees an access past either end.
  std::unique_ptr<void, decltype(&std::free)> shared{nullptr, &std::free};
  size_t shared_bytes = 0;

  // Two sets of slots, used in turn: who has read one set may write the other while slower lanes still read.
  uint64_t slots[2][kMaxThreads] = {};
  uint8_t turn[kMaxThreads] = {};  // each entry is its own thread's
};
Block* block = nullptr;

uint3 position(uint64_t rank, const dim3& size) {
  return {static_cast<unsigned>(rank % size.x), static_cast<unsigned>(rank / size.x % size.y),
          static_cast<unsigned>(rank / size.x / size.y)};
}

void enter_thread(int rank) {
  threadIdx = position(static_cast<uint64_t>(rank), block->size);
  blockIdx = block->index;
  blockDim = block->size;
  gridDim = block->grid;
}

bool skipped(const char* file, int line) {
  const Options& o = options();
  if (o.skipped_line != line || o.skipped_line == 0) return false;
  const std::string path = file;
  return path.size() >= o.skipped_file.size() &&
         path.compare(path.size() - o.skipped_file.size(), std::string::npos, o.skipped_file) == 0;
}

void* allocate_shared(size_t bytes, size_t alignment) {
  if (!block->shared) {
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment < sizeof(void*) ? sizeof(void*) : alignment, bytes) != 0) std::abort();
#if defined(CUDA_ON_HOST_THREADS)
    std::memset(memory, 0, bytes);  // harmless as an offset too: a race is to be reported, not to crash first
#else
    poison(memory, bytes);
#endif
    block->shared.reset(memory);
    block->shared_bytes = bytes;
  }
  if (block->shared_bytes != bytes) {
    std::fprintf(stderr, "the threads of a block asked for shared memory of different sizes\n");
    std::abort();
  }
  return block->shared.get();
}

#if defined(CUDA_ON_HOST_THREADS)

std::mutex shared_mutex;
std::unique_ptr<std::barrier<>> block_barrier;
std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;

bool run_block() {
  block_barrier = std::make_unique<std::barrier<>>(block->threads);
  warp_barriers.clear();
  for (int first = 0; first < block->threads; first += kWarp) {
    warp_barriers.push_back(std::make_unique<std::barrier<>>(std::min(kWarp, block->threads - first)));
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < block->threads; ++rank) {
    threads.emplace_back([rank] {
      enter_thread(rank);
      (*block->body)();
      warp_barriers[static_cast<size_t>(rank / kWarp)]->arrive_and_drop();
      block_barrier->arrive_and_drop();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return true;
}

#else

constexpr size_t kStackBytes = size_t{256} << 10;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kReturned };

// Where to go on, for the compiler's own setjmp and longjmp.
struct Place {
  void* registers[5];
};

struct Fiber {
  ucontext_t start;
  Place place;
  State state;
  const char* file;  // of the barrier it waits at
  int line;
  void* stack;
  void* fake_stack;  // AddressSanitizer's
  bool made = false;
  bool started;
};

Place scheduler;
[[maybe_unused]] const void* scheduler_stack = nullptr;
[[maybe_unused]] size_t scheduler_stack_bytes = 0;
[[maybe_unused]] void* scheduler_fake_stack = nullptr;
Fiber* running = nullptr;

// One fiber for each thread that a block can have. Each stack ends in a page that cannot be touched, so that a kernel
// with large local arrays crashes rather than overwrites its neighbour.
std::vector<Fiber>& fibers() {
  static std::vector<Fiber> all = [] {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<Fiber> made(kMaxThreads);
    for (Fiber& fiber : made) {
      fiber.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
      if (fiber.stack == MAP_FAILED || mprotect(fiber.stack, page, PROT_NONE) != 0) std::abort();
    }
    return made;
  }();
  return all;
}

// swapcontext would do, but asks the kernel for the signal mask each time, which took most of the tests' time. Without
// AddressSanitizer's code, which takes a longjmp for the end of all frames on this stack and forgets what it knows of
// them.
[[noreturn]] __attribute__((noipa, no_sanitize("address"))) void leave_for(Place& to) {
  __builtin_longjmp(to.registers, 1);  // in a function of its own: GCC takes none to where it is
}

__attribute__((noipa, no_sanitize("address"))) void jump(Place& from, Place& to) {
  if (__builtin_setjmp(from.registers) == 0) leave_for(to);
}

__attribute__((noipa, no_sanitize("address"))) void jump_to_start(Place& from, const ucontext_t& to) {
  if (__builtin_setjmp(from.registers) == 0) setcontext(&to);
}

// AddressSanitizer must be told of every change of stack, before and after.
void to_fiber(Fiber& fiber) {
  running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, kStackBytes);
#endif
  if (std::exchange(fiber.started, true)) {
    jump(scheduler, fiber.place);
  } else {
    jump_to_start(scheduler, fiber.start);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void to_scheduler() {
  Fiber& fiber = *running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  jump(fiber.place, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

// Serves one block after another: making a fiber costs more than most blocks.
void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  for (;;) {
    (*block->body)();
    running->state = State::kReturned;
    to_scheduler();
  }
}

void make_fiber(Fiber& fiber) {
  fiber.fake_stack = nullptr;
  if (getcontext(&fiber.start) != 0) std::abort();
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, &fiber_main, 0);
  fiber.made = true;
  fiber.started = false;
}

// Lets those fibers go on that no longer have to wait. Returns false, having said why, if there are none.
bool release(std::vector<Fiber>& all, int threads) {
  bool any = false;
  for (int first = 0; first < threads; first += kWarp) {
    const int last = std::min(threads, first + kWarp);
    bool complete = true, waiting = false;
    for (int i = first; i < last; ++i) {
      const State state = all[static_cast<size_t>(i)].state;
      complete = complete && (state == State::kAtWarpBarrier || state == State::kReturned);
      waiting = waiting || state == State::kAtWarpBarrier;
    }
    if (!complete || !waiting) continue;
    any = true;
    for (int i = first; i < last; ++i) {
      Fiber& fiber = all[static_cast<size_t>(i)];
      if (fiber.state == State::kAtWarpBarrier) fiber.state = State::kReady;
    }
  }
  if (any) return true;

  const Fiber& front = all[0];
  for (int i = 0; i < threads; ++i) {
    const Fiber& fiber = all[static_cast<size_t>(i)];
    if (fiber.state == State::kAtBlockBarrier && front.state == State::kAtBlockBarrier && fiber.line == front.line &&
        std::strcmp(fiber.file, front.file) == 0) {
      continue;
    }
    const auto describe = [](const Fiber& f) {
      switch (f.state) {
        case State::kReturned:
          return std::string("has returned");
        case State::kAtWarpBarrier:
          return std::string("waits for its warp");
        default:
          return "waits at the barrier in line " + std::to_string(f.line);
      }
    };
    failure = "thread 0 " + describe(front) + ", thread " + std::to_string(i) + " " + describe(fiber);
    return false;
  }
  for (int i = 0; i < threads; ++i) all[static_cast<size_t>(i)].state = State::kReady;
  return true;
}

// These fibers never end; the next block gets new ones.
void abandon(std::vector<Fiber>& all, int threads) {
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = all[static_cast<size_t>(i)];
    fiber.made = false;
#if defined(__SANITIZE_ADDRESS__)
    // What they leave on their stacks is not the next ones' to trip over.
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    __asan_unpoison_memory_region(static_cast<char*>(fiber.stack) + page, kStackBytes - page);
#endif
  }
}

bool run_block() {
  std::vector<Fiber>& all = fibers();
  const int threads = block->threads;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = all[static_cast<size_t>(i)];
    fiber.state = State::kReady;
    if (!fiber.made) make_fiber(fiber);
  }
  for (;;) {
    bool finished = true;
    for (int step = 0; step < threads; ++step) {
      const int i = options().reverse ? threads - 1 - step : step;
      Fiber& fiber = all[static_cast<size_t>(i)];
      if (fiber.state == State::kReady) {
        enter_thread(i);
        to_fiber(fiber);
      }
      finished = finished && fiber.state == State::kReturned;
    }
    if (finished) return true;
    if (!release(all, threads)) {
      abandon(all, threads);
      return false;
    }
  }
}

#endif

}  // namespace

Options& options() {
  static Options instance;
  return instance;
}

const std::string& last_failure() { return failure; }

void poison(void* memory, size_t bytes) {
  constexpr unsigned char kPattern[2] = {0xf7, 0x7f};
  for (size_t i = 0; i < bytes; ++i) static_cast<unsigned char*>(memory)[i] = kPattern[i % 2];
}

cudaError_t run_grid(dim3 grid, dim3 size, const std::function<void()>& thread) {
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  if (blocks == 0 || threads == 0 || threads > kMaxThreads) return last_error = cudaErrorInvalidConfiguration;
  const auto run_one = [&](uint3 index) {
    Block one;
    one.index = index;
    one.size = size;
    one.grid = grid;
    one.threads = static_cast<int>(threads);
    one.body = &thread;
    block = &one;
    const bool ok = run_block();
    block = nullptr;
    return ok;
  };
  if (options().only_block) return run_one(*options().only_block) ? cudaSuccess : last_error = cudaErrorLaunchFailure;
  for (uint64_t rank = 0; rank < blocks; ++rank) {
    if (!run_one(position(rank, grid))) return last_error = cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

void* block_shared(size_t bytes, size_t alignment) {
#if defined(CUDA_ON_HOST_THREADS)
  // Taken once by each thread before it touches shared memory, so it orders none of those accesses.
  const std::lock_guard lock(shared_mutex);
#endif
  return allocate_shared(bytes, alignment);
}

#if defined(CUDA_ON_HOST_THREADS)

void sync_threads(const char* file, int line) {
  if (!skipped(file, line)) block_barrier->arrive_and_wait();
}

void sync_warp() { warp_barriers[static_cast<size_t>(rank() / kWarp)]->arrive_and_wait(); }

#else

void sync_threads(const char* file, int line) {
  if (skipped(file, line)) return;
  running->state = State::kAtBlockBarrier;
  running->file = file;
  running->line = line;
  to_scheduler();
}

void sync_warp() {
  running->state = State::kAtWarpBarrier;
  to_scheduler();
}

#endif

uint64_t shuffle_bits(uint64_t value, int from) {
  const int me = rank();
  const int turn = block->turn[me];
  block->turn[me] ^= 1;
  block->slots[turn][me] = value;
  sync_warp();
  return block->slots[turn][me / kWarp * kWarp + from];
}

}  // namespace cuda_on_host

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_host::last_error;
  cuda_on_host::last_error = cudaSuccess;
  return error;
}
