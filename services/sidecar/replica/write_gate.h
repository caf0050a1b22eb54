// The gate that every local update passes: open while the node may write.
//
// Passing an open gate is two atomic operations. A closed gate parks the update as a closure, so
// that no thread of the driver ever waits; it is resumed (entered) when the gate opens, or failed.
// Any thread may call any method.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

// Under what an update is made: a token's epoch, or none (0) while disconnected.
struct WriteAuthority {
  Epoch epoch;
};

class WriteGate {
 public:
  // Called with OK: the update has entered, do it and Leave(). With an error: answer it.
  using Resume = std::function<void(absl::Status)>;

  // `wanted` is called (on the parking thread, must not block) when an update is parked at a
  // closed gate and none was parked before, and again after each Close() that leaves some parked.
  // `run` runs resumed closures on threads that may block on the lower file system.
  // At most `max_parked` updates wait; the next is failed with RESOURCE_EXHAUSTED (EAGAIN). What
  // they carry is bounded by the driver that parks them (fuse/parked_payloads.h).
  WriteGate(std::function<void()> wanted, std::function<void(std::function<void()>)> run,
            size_t max_parked = 100'000);

  // True: the caller has entered and must Leave(). Never blocks.
  bool TryEnter();
  void Leave();
  // Enters at once (`resume` runs on this thread) or waits as a closure.
  void EnterOrPark(Resume resume);

  // Replaces `wanted`. Before the gate is used.
  void SetWanted(std::function<void()> wanted);

  // Opens and resumes the parked updates in order, before any newcomer of the same thread. An open
  // gate only gets another authority. Nothing happens after Fail().
  void Open(WriteAuthority authority);
  // From now on updates are parked. Those that have entered go on.
  void Close();
  // Holds the gate closed, whatever Open() and Close() say meanwhile, until Unpause(); then it is
  // as they left it. Not nested.
  void Pause();
  void Unpause();
  // Waits until all that entered have left. Called with the gate closed, with no lock held.
  absl::Status WaitDrained(absl::Duration timeout);
  // Fails all parked updates with `status`.
  void FailParked(const absl::Status& status);
  // Closes for good: parked and later updates are failed with `status` (the first one stays).
  void Fail(const absl::Status& status);

  bool is_open() const;
  bool wanted() const;  // some update is parked
  // Authority of an update that has entered.
  WriteAuthority authority() const;

 private:
  // One word, so that "open" and "one more inside" are seen together.
  static constexpr uint64_t kOpen = uint64_t{1} << 63;

  // Lets the parked enter with the opening itself: a Close() right after waits for them.
  std::deque<Resume> OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Hands `resumes` to `run_`, each with `status`.
  void RunAll(std::deque<Resume> resumes, const absl::Status& status);

  const std::function<void(std::function<void()>)> run_;
  const size_t max_parked_;

  // kOpen and the number of updates inside.
  std::atomic<uint64_t> state_{0};
  std::atomic<uint64_t> epoch_{0};

  mutable absl::Mutex mu_;
  std::function<void()> wanted_ ABSL_GUARDED_BY(mu_);
  std::deque<Resume> parked_ ABSL_GUARDED_BY(mu_);
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  bool open_after_pause_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::sidecar
