// A pool of threads that run the tasks of one region after another.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace intaglio {

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// GOMP_parallel of the OpenMP library of GCC: calls a function in all threads of its own pool.
using Parallel = void (*)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

class Threads {
 public:
  // With `parallel`, tasks run in its threads. Beside a program that uses OpenMP, threads of our own would compete with
  // its threads, which spin for milliseconds after each of their regions.
  explicit Threads(int count, Parallel parallel = nullptr) : count_(count), parallel_(parallel) {
    for (int i = 1; i < count && !parallel; i++) workers_.emplace_back([this, i] { work(i); });
  }

  ~Threads() {
    stop_ = true;
    region_.fetch_add(1);
    region_.notify_all();
    for (auto &worker : workers_) worker.join();
  }

  int count() const { return count_; }

  // Call function(task, thread) for every task; returns when all are done. A thread that gets no processor holds up
  // nothing but the task that it has begun.
  void run(int tasks, const std::function<void(int, int)> &function) {
    if (count_ == 1 || tasks == 1) {
      for (int task = 0; task < tasks; task++) function(task, 0);
      return;
    }
    const std::lock_guard<std::mutex> one_at_a_time(running_);
    function_ = &function;
    done_.store(0, std::memory_order_relaxed);
    const unsigned region = region_.load(std::memory_order_relaxed) + 1;
    ticket_.store((static_cast<uint64_t>(tasks) << INDEX_BITS), std::memory_order_release);
    if (parallel_) {
      // Functions that are called this way do not know their thread: tasks of a pool of OpenMP use no thread's memory.
      parallel_([](void *threads) { static_cast<Threads *>(threads)->take(0); }, this, count_, 0);
      return;
    }
    region_.store(region);
    if (sleeping_.load()) region_.notify_all();
    take(0);
    for (int poll = 0; done_.load(std::memory_order_acquire) < tasks; poll++)
      poll < POLLS ? pause() : std::this_thread::yield();
  }

 private:
  // Polls of a waiting thread, some tens of microseconds, before it sleeps: regions of a model follow one another
  // sooner than a thread wakes up.
  static constexpr int POLLS = 2000;
  static constexpr int INDEX_BITS = 32;

  // A ticket holds the number of tasks of its region and an index. It is a task only if the index is below that number,
  // so a thread that comes late, in whatever region, does no harm.
  void take(int thread) {
    for (;;) {
      const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
      const auto task = static_cast<uint32_t>(ticket), tasks = static_cast<uint32_t>(ticket >> INDEX_BITS);
      if (task >= tasks) return;
      (*function_)(static_cast<int>(task), thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  void work(int thread) {
    for (unsigned seen = 0;;) {
      for (int poll = 0; poll < POLLS && region_.load(std::memory_order_acquire) == seen; poll++) pause();
      if (region_.load() == seen) {
        sleeping_.fetch_add(1);
        region_.wait(seen);
        sleeping_.fetch_sub(1);
      }
      seen = region_.load(std::memory_order_acquire);
      if (stop_) return;
      take(thread);
    }
  }

  const int count_;
  const Parallel parallel_;
  std::atomic<unsigned> region_{0};
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> done_{0}, sleeping_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int, int)> *function_ = nullptr;
  std::mutex running_;
  std::vector<std::thread> workers_;
};

}  // namespace intaglio
