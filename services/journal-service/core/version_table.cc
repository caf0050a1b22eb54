#include "services/journal-service/core/version_table.h"

namespace intermezzo::journal {

absl::StatusOr<ObjectState> VersionOverlay::Object(ObjectId object) const {
  auto it = objects_.find(object.value());
  return it != objects_.end() ? it->second : base_->Object(object);
}

absl::StatusOr<EntryState> VersionOverlay::Entry(ObjectId directory,
                                                 const std::string& name) const {
  if (!entries_.empty()) {
    auto it = entries_.find(EntryKey(directory.value(), name));
    if (it != entries_.end()) return it->second;
  }
  return base_->Entry(directory, name);
}

void VersionOverlay::Merge(VersionOverlay&& other) {
  for (auto& [object, state] : other.objects_) objects_[object] = state;
  for (auto& [key, state] : other.entries_) entries_[key] = state;
}

}  // namespace intermezzo::journal
