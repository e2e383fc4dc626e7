// Work in phases, shared between the threads of somebody else's pool.
//
// Each phase is a number of chunks that threads claim one at a time; a phase starts when the last
// one's chunks are all done. One call into the pool covers all phases. A thread that comes late, or
// never, only claims nothing: whoever is there does the work, so no thread waits for one that has
// not started.
#pragma once

#include <atomic>
#include <cassert>
#include <cstddef>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace river {

// Runs work(argument, i) for every i below count, on any threads, and returns when all are done.
struct Pool {
  void (*run)(void* pool, void (*work)(void*, size_t), size_t count, void* argument);
  void* pool;
  size_t threads;
};

class PhasedWork {
 public:
  static constexpr size_t kMaxPhases = 12;

  virtual ~PhasedWork() = default;
  virtual void chunk(size_t phase, size_t index) noexcept = 0;

  void add_phase(size_t chunks) {
    assert(count_ < kMaxPhases);
    phases_[count_++].chunks = chunks;
  }

  void run(const Pool& pool) {
    if (pool.threads > 1) {
      pool.run(pool.pool, [](void* self, size_t) { static_cast<PhasedWork*>(self)->take_part(); },
               pool.threads, this);
    } else {
      take_part();
    }
  }

 private:
  struct alignas(64) Phase {
    size_t chunks = 0;
    std::atomic<size_t> claimed{0};
    alignas(64) std::atomic<size_t> done{0};
  };

  void take_part() noexcept {
    for (size_t p = 0; p < count_; ++p) {
      Phase& phase = phases_[p];
      // Looked at before it is claimed: one who comes late takes no cache line from the others.
      while (phase.claimed.load(std::memory_order_relaxed) < phase.chunks) {
        const size_t index = phase.claimed.fetch_add(1, std::memory_order_relaxed);
        if (index >= phase.chunks) break;
        chunk(p, index);
        phase.done.fetch_add(1, std::memory_order_acq_rel);
      }
      for (size_t spins = 0; phase.done.load(std::memory_order_acquire) < phase.chunks; ++spins) {
        pause(spins);
      }
    }
  }

  // The chunk waited for is being run; but its thread may have lost its core.
  static void pause(size_t spins) noexcept {
    constexpr size_t kSpins = 20000;
    if (spins > kSpins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  Phase phases_[kMaxPhases];
  size_t count_ = 0;
};

}  // namespace river
