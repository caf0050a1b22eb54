#include "services/journal-service/core/watchers.h"

#include <utility>
#include <vector>

namespace intermezzo::journal {

WatchId Watchers::Watch(Watcher watcher) {
  absl::MutexLock lock(&mu_);
  WatchId id = next_++;
  watchers_.emplace(id, std::make_shared<const Watcher>(std::move(watcher)));
  return id;
}

void Watchers::Unwatch(WatchId id) {
  absl::MutexLock lock(&mu_);
  watchers_.erase(id);
}

void Watchers::Notify(const JournalEvent& event) {
  std::vector<std::shared_ptr<const Watcher>> watchers;
  {
    absl::MutexLock lock(&mu_);
    watchers.reserve(watchers_.size());
    for (const auto& [id, watcher] : watchers_) watchers.push_back(watcher);
  }
  for (const auto& watcher : watchers) (*watcher)(event);
}

size_t Watchers::size() const {
  absl::MutexLock lock(&mu_);
  return watchers_.size();
}

}  // namespace intermezzo::journal
