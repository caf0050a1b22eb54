#include "services/sidecar/replica/write_gate.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

absl::Status TooManyParked(size_t limit) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat(limit, " updates wait for the write token already"));
  // EAGAIN for the caller, and not what RESOURCE_EXHAUSTED means elsewhere (no space).
  StatusFromErrno(EAGAIN, "")
      .ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
        status.SetPayload(type, payload);
      });
  return status;
}

}  // namespace

WriteGate::WriteGate(std::function<void()> wanted, std::function<void(std::function<void()>)> run,
                     size_t max_parked)
    : run_(std::move(run)), max_parked_(max_parked), wanted_(std::move(wanted)) {}

bool WriteGate::TryEnter() {
  if (state_.fetch_add(1, std::memory_order_acq_rel) & kOpen) return true;
  Leave();
  return false;
}

void WriteGate::Leave() {
  // The last one out of a closed gate wakes WaitDrained: conditions are looked at on unlock.
  if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) absl::MutexLock lock(&mu_);
}

void WriteGate::EnterOrPark(Resume resume) {
  if (TryEnter()) return resume(absl::OkStatus());
  absl::Status refused;
  std::function<void()> call_wanted;
  {
    absl::MutexLock lock(&mu_);
    if (!failure_.ok()) {
      refused = failure_;
    } else if (state_.load(std::memory_order_acquire) & kOpen) {
      // Opened meanwhile; it cannot close while mu_ is held.
      state_.fetch_add(1, std::memory_order_acq_rel);
    } else if (parked_.size() >= max_parked_) {
      refused = TooManyParked(max_parked_);
    } else {
      if (parked_.empty()) call_wanted = wanted_;
      parked_.push_back(std::exchange(resume, nullptr));
    }
  }
  if (resume) return resume(refused);
  if (call_wanted) call_wanted();
}

void WriteGate::SetWanted(std::function<void()> wanted) {
  absl::MutexLock lock(&mu_);
  wanted_ = std::move(wanted);
}

std::deque<WriteGate::Resume> WriteGate::OpenLocked() {
  std::deque<Resume> resumed;
  resumed.swap(parked_);
  const bool was_open = state_.load(std::memory_order_acquire) & kOpen;
  state_.fetch_add((was_open ? 0 : kOpen) + resumed.size(), std::memory_order_acq_rel);
  return resumed;
}

void WriteGate::Open(WriteAuthority authority) {
  std::deque<Resume> resumed;
  {
    absl::MutexLock lock(&mu_);
    if (!failure_.ok()) return;
    epoch_.store(authority.epoch.value(), std::memory_order_release);
    open_after_pause_ = true;
    if (paused_) return;
    resumed = OpenLocked();
  }
  RunAll(std::move(resumed), absl::OkStatus());
}

void WriteGate::Close() {
  std::function<void()> call_wanted;
  {
    absl::MutexLock lock(&mu_);
    open_after_pause_ = false;
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    if (!parked_.empty()) call_wanted = wanted_;
  }
  if (call_wanted) call_wanted();
}

void WriteGate::Pause() {
  absl::MutexLock lock(&mu_);
  paused_ = true;
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
}

void WriteGate::Unpause() {
  std::deque<Resume> resumed;
  {
    absl::MutexLock lock(&mu_);
    paused_ = false;
    if (!failure_.ok() || !open_after_pause_) return;
    resumed = OpenLocked();
  }
  RunAll(std::move(resumed), absl::OkStatus());
}

absl::Status WriteGate::WaitDrained(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  auto drained = [this] { return (state_.load(std::memory_order_acquire) & ~kOpen) == 0; };
  if (mu_.AwaitWithTimeout(absl::Condition(&drained), timeout)) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("updates still under way after ", absl::FormatDuration(timeout)));
}

void WriteGate::FailParked(const absl::Status& status) {
  std::deque<Resume> failed;
  {
    absl::MutexLock lock(&mu_);
    failed.swap(parked_);
  }
  RunAll(std::move(failed), status);
}

void WriteGate::Fail(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (failure_.ok()) failure_ = status;
    open_after_pause_ = false;
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  }
  FailParked(status);
}

bool WriteGate::is_open() const { return state_.load(std::memory_order_acquire) & kOpen; }

bool WriteGate::wanted() const {
  absl::MutexLock lock(&mu_);
  return !parked_.empty();
}

WriteAuthority WriteGate::authority() const {
  return WriteAuthority{Epoch(epoch_.load(std::memory_order_acquire))};
}

void WriteGate::RunAll(std::deque<Resume> resumes, const absl::Status& status) {
  for (Resume& resume : resumes) {
    run_([resume = std::move(resume), status] { resume(status); });
  }
}

}  // namespace intermezzo::sidecar
