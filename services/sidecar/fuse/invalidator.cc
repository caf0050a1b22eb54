#include "services/sidecar/fuse/invalidator.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "services/common/log/log.h"

namespace intermezzo::sidecar {
namespace {
constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
// For an answer on its way into the kernel: it waits for the caller's thread to be scheduled.
constexpr absl::Duration kTryAfter = absl::Milliseconds(1);
constexpr int kMostTries = 30'000;
}  // namespace

Invalidator::Invalidator(KernelCache* kernel, Limits limits) : kernel_(kernel), limits_(limits) {}

Invalidator::~Invalidator() { Stop(); }

void Invalidator::Start() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = false;
  }
  threads_.emplace_back([this] { QuickLane(); });
  for (int i = 0; i < limits_.slow_threads; ++i) threads_.emplace_back([this] { SlowLane(); });
}

void Invalidator::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  absl::MutexLock lock(&mu_);
  quick_.clear();
  quick_order_.clear();
  slow_.clear();
  slow_order_.clear();
  names_ = 0;
  late_ = 0;
  drop_all_ = false;
}

Invalidator::Work* Invalidator::SlowWork(uint64_t id) {
  Work& work = slow_[id];
  if (!work.queued) {
    work.queued = true;
    slow_order_.push_back(id);
  }
  return &work;
}

void Invalidator::AddQuick(uint64_t id, bool directory) {
  auto [it, fresh] = quick_.try_emplace(id, directory);
  if (fresh) {
    quick_order_.push_back(id);
  } else {
    it->second = it->second || directory;
  }
}

void Invalidator::Queue(const Invalidation& what) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return;
  for (const Invalidation::Entry& entry : what.entries) {
    AddQuick(entry.parent.value(), true);
    if (drop_all_) continue;  // covers it: that call has not been made yet
    Work* work = SlowWork(entry.parent.value());
    if (!work->name_set.insert(entry.name).second) continue;
    work->names.push_back(entry.name);
    if (++names_ <= limits_.max_names || !kernel_->CanDropAllEntries()) continue;
    drop_all_ = true;
    for (auto& [id, each] : slow_) {
      each.names.clear();
      each.name_set.clear();
    }
    names_ = 0;
  }
  for (const Invalidation::Object& object : what.objects) {
    if (object.length == 0) {
      AddQuick(object.id.value(), false);
      continue;
    }
    Work* work = SlowWork(object.id.value());
    const int64_t end = object.length < 0 || object.offset > kAll - object.length
                            ? kAll
                            : object.offset + object.length;
    if (!work->pages) {
      work->begin = object.offset;
      work->end = end;
    } else {
      work->begin = std::min(work->begin, object.offset);
      work->end = std::max(work->end, end);
    }
    work->pages = true;
  }
}

void Invalidator::Hold(const std::vector<uint64_t>& objects) {
  absl::MutexLock lock(&mu_);
  for (uint64_t id : objects) ++held_[id];
}

void Invalidator::Release(const std::vector<uint64_t>& objects) {
  absl::MutexLock lock(&mu_);
  for (uint64_t id : objects) {
    auto it = held_.find(id);
    if (it != held_.end() && --it->second == 0) held_.erase(it);
  }
}

void Invalidator::TryLater(uint64_t id, Work work) {
  if (!kernel_->MayArrive(ObjectId(id))) return;
  if (++work.tries > kMostTries) {
    log::Warning("the kernel does not take an object in that it was told of",
                 {{"object", std::to_string(id)}});
    return;
  }
  absl::MutexLock lock(&mu_);
  if (stopping_) return;
  Work* queued = SlowWork(id);
  if (queued->due == absl::InfinitePast()) ++late_;
  queued->due = absl::Now() + kTryAfter;
  queued->tries = std::max(queued->tries, work.tries);
  queued->attributes = queued->attributes || work.attributes;
  if (!work.pages) return;
  queued->begin = queued->pages ? std::min(queued->begin, work.begin) : work.begin;
  queued->end = queued->pages ? std::max(queued->end, work.end) : work.end;
  queued->pages = true;
}

bool Invalidator::SlowReady() const {
  const absl::Time now = late_ == 0 ? absl::InfiniteFuture() : absl::Now();
  for (uint64_t id : slow_order_) {
    if (!held_.contains(id) && !slow_busy_.contains(id) && slow_.at(id).due <= now) return true;
  }
  return false;
}

uint64_t Invalidator::NextSlow() {
  const absl::Time now = late_ == 0 ? absl::InfiniteFuture() : absl::Now();
  for (auto it = slow_order_.begin(); it != slow_order_.end(); ++it) {
    if (held_.contains(*it) || slow_busy_.contains(*it)) continue;
    uint64_t id = *it;
    const absl::Time due = slow_.at(id).due;
    if (due > now) continue;
    if (due != absl::InfinitePast()) --late_;
    slow_order_.erase(it);
    return id;
  }
  return 0;
}

void Invalidator::QuickLane() {
  absl::MutexLock lock(&mu_);
  while (true) {
    mu_.Await(absl::Condition(
        +[](Invalidator* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) {
          return self->stopping_ || self->drop_all_ || !self->quick_order_.empty();
        },
        this));
    if (stopping_) return;
    const bool all = std::exchange(drop_all_, false);
    uint64_t id = 0;
    bool directory = false;
    if (!quick_order_.empty()) {
      id = quick_order_.front();
      quick_order_.pop_front();
      directory = quick_[id];
      quick_.erase(id);
    }
    quick_busy_ = true;
    mu_.Unlock();
    if (all) kernel_->DropAllEntries();
    Work work;
    int result = 0;
    if (directory) {
      work.pages = true;
      work.end = kAll;
      result = kernel_->DropPages(ObjectId(id), 0, 0);
    } else if (id != 0) {
      work.attributes = true;
      result = kernel_->DropAttributes(ObjectId(id));
    }
    if (result == -ENOENT) TryLater(id, std::move(work));
    mu_.Lock();
    quick_busy_ = false;
  }
}

void Invalidator::SlowLane() {
  absl::MutexLock lock(&mu_);
  while (true) {
    const bool ready =
        mu_.AwaitWithTimeout(absl::Condition(
                                 +[](Invalidator* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) {
                                   return self->stopping_ || self->SlowReady();
                                 },
                                 this),
                             late_ == 0 ? absl::Seconds(1) : kTryAfter);
    if (stopping_) return;
    if (!ready) continue;
    const uint64_t id = NextSlow();
    if (id == 0) continue;
    Work work = std::move(slow_[id]);
    slow_.erase(id);
    names_ -= std::min(names_, work.names.size());
    slow_busy_.insert(id);
    mu_.Unlock();
    int result = 0;
    if (work.pages) {
      result = kernel_->DropPages(ObjectId(id), work.begin,
                                  work.end == kAll ? 0 : work.end - work.begin);
    } else if (work.attributes) {
      result = kernel_->DropAttributes(ObjectId(id));
    }
    for (const std::string& name : work.names) kernel_->DropEntry(ObjectId(id), name);
    if (result == -ENOENT) TryLater(id, std::move(work));
    mu_.Lock();
    slow_busy_.erase(id);
  }
}

bool Invalidator::Idle() const {
  return !drop_all_ && quick_order_.empty() && !quick_busy_ && slow_busy_.empty() && late_ == 0 &&
         !SlowReady();
}

bool Invalidator::WaitIdle(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(
      absl::Condition(
          +[](Invalidator* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) { return self->Idle(); },
          this),
      timeout);
}

size_t Invalidator::queued() const {
  absl::MutexLock lock(&mu_);
  return quick_order_.size() + slow_order_.size();
}

}  // namespace intermezzo::sidecar
