// A pool of threads that run the tasks of one region after another.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace intaglio {

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

class Threads {
 public:
  explicit Threads(int count, std::function<void()> begin) {
    for (int i = 1; i < count; i++)
      workers_.emplace_back([this, i, begin] {
        if (begin) begin();
        work(i);
      });
  }

  ~Threads() {
    stop_ = true;
    region_.fetch_add(1);
    region_.notify_all();
    for (auto &worker : workers_) worker.join();
  }

  int count() const { return static_cast<int>(workers_.size()) + 1; }

  // Call function(task, thread) for every task; returns when all are done.
  void run(int tasks, const std::function<void(int, int)> &function) {
    if (workers_.empty() || tasks == 1) {
      for (int task = 0; task < tasks; task++) function(task, 0);
      return;
    }
    function_ = &function;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    working_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    region_.fetch_add(1);
    if (sleeping_.load()) region_.notify_all();
    take(0);
    while (working_.load(std::memory_order_acquire)) pause();
  }

 private:
  // Polls of a waiting thread, some tens of microseconds, before it sleeps: regions of a model follow one another
  // sooner than a thread wakes up.
  static constexpr int POLLS = 2000;

  void take(int thread) {
    for (int task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) (*function_)(task, thread);
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
      working_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<unsigned> region_{0};
  std::atomic<int> next_{0}, working_{0}, sleeping_{0};
  std::atomic<bool> stop_{false};
  int tasks_ = 0;
  const std::function<void(int, int)> *function_ = nullptr;
  std::vector<std::thread> workers_;
};

}  // namespace intaglio
