#include "services/journal-service/memory/memory_journal.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/journal-service/core/tail_cache.h"

namespace intermezzo::journal {

absl::StatusOr<ObjectState> MemoryTable::Object(ObjectId object) const {
  auto it = objects_.find(object.value());
  return it != objects_.end() ? it->second : ObjectState();
}

absl::StatusOr<EntryState> MemoryTable::Entry(ObjectId directory, const std::string& name) const {
  auto it = entries_.find(VersionOverlay::EntryKey(directory.value(), name));
  return it != entries_.end() ? it->second : EntryState();
}

void MemoryTable::Apply(const VersionOverlay& overlay) {
  for (const auto& [object, state] : overlay.objects()) {
    if (state.exists()) {
      objects_[object] = state;
    } else {
      objects_.erase(object);
    }
  }
  for (const auto& [key, state] : overlay.entries()) {
    if (state.exists()) {
      entries_[key] = state;
    } else {
      entries_.erase(key);
    }
  }
}

MemoryJournal::MemoryJournal(CollectionName name, uint64_t uid, absl::Duration retention,
                             Clock clock)
    : name_(std::move(name)), clock_(std::move(clock)) {
  state_.uid = uid;
  state_.retention = retention;
}

absl::Status MemoryJournal::CheckAlive() const {
  if (!deleted_) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("collection ", name_.str(), " was deleted"));
}

void MemoryJournal::Append(PreparedBatch batch,
                           std::function<void(absl::StatusOr<Confirmation>)> done) {
  absl::StatusOr<Confirmation> result;
  std::vector<EntryPtr> admitted;
  Seq head;
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status alive = CheckAlive(); !alive.ok()) {
      result = alive;
    } else {
      auto it = origins_.find(batch.ordinal.value());
      OriginState origin = it != origins_.end() ? it->second : OriginState();
      VersionOverlay overlay(&table_);
      result = AdmitBatch(name_, batch, clock_(), state_, origin, overlay, admitted);
      if (result.ok()) {
        table_.Apply(overlay);
        if (!admitted.empty()) origins_[batch.ordinal.value()] = origin;
        entries_.insert(entries_.end(), admitted.begin(), admitted.end());
      }
    }
    head = state_.head;
  }
  done(std::move(result));
  if (!admitted.empty()) watchers_.Notify({head});
}

void MemoryJournal::Fence(Epoch epoch, std::function<void(absl::StatusOr<Seq>)> done) {
  absl::StatusOr<Seq> result;
  {
    absl::MutexLock lock(&mu_);
    absl::Status status = CheckAlive();
    if (status.ok()) status = AdmitFence(name_, epoch, state_);
    result = state_.head;
    if (!status.ok()) result = status;
  }
  done(std::move(result));
}

absl::StatusOr<std::vector<EntryPtr>> MemoryJournal::Read(Seq from, const ReadOptions& options) {
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  if (absl::Status status = CheckReadable(name_, state_, from); !status.ok()) return status;
  std::vector<EntryPtr> out;
  ReadBudget budget(options);
  for (size_t i = from.value() - state_.first.value(); i < entries_.size(); ++i) {
    if (!budget.Take(*entries_[i])) break;
    out.push_back(entries_[i]);
  }
  return out;
}

bool MemoryJournal::ReadCached(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) {
  auto entries = Read(from, options);
  if (!entries.ok()) return false;
  out = *std::move(entries);
  return true;
}

absl::StatusOr<std::string> MemoryJournal::ChainAt(Seq seq) {
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  if (seq == state_.head) return state_.head_chain;
  if (seq.next() == state_.first) return state_.base_chain;
  if (absl::Status status = CheckReadable(name_, state_, seq.next()); !status.ok()) return status;
  if (absl::Status status = CheckReadable(name_, state_, seq); !status.ok()) return status;
  return entries_[seq.value() - state_.first.value()]->entry.chain();
}

JournalState MemoryJournal::State() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

absl::StatusOr<OriginState> MemoryJournal::Origin(Ordinal ordinal) const {
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  auto it = origins_.find(ordinal.value());
  return it != origins_.end() ? it->second : OriginState();
}

absl::Status MemoryJournal::SetCursors(std::vector<Cursor> cursors) {
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  cursors_ = std::move(cursors);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> MemoryJournal::Trim() {
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  const Seq limit = TrimLimit(state_, cursors_);
  const int64_t before_ns = absl::ToUnixNanos(clock_() - state_.retention);
  size_t count = 0;
  while (count < entries_.size() && entries_[count]->entry.seq() <= limit.value() &&
         entries_[count]->entry.committed_ns() < before_ns) {
    state_.base_chain = entries_[count]->entry.chain();
    state_.trimmed_bytes += entries_[count]->bytes();
    ++count;
  }
  entries_.erase(entries_.begin(), entries_.begin() + count);
  state_.first = Seq(state_.first.value() + count);
  return count;
}

void MemoryJournal::MarkDeleted() {
  Seq head;
  {
    absl::MutexLock lock(&mu_);
    deleted_ = true;
    head = state_.head;
  }
  watchers_.Notify({head, true});
}

absl::Status MemoryJournalStore::Create(const CollectionName& name, uint64_t uid,
                                        absl::Duration retention) {
  absl::MutexLock lock(&mu_);
  for (const auto& [other, journal] : journals_) {
    const uint64_t other_uid = journal->State().uid;
    if (other == name && other_uid == uid) return absl::OkStatus();
    if (other == name || other_uid == uid) {
      return absl::AlreadyExistsError(
          absl::StrCat("there is a journal ", other.str(), " with uid ", other_uid));
    }
  }
  journals_.emplace(name, std::make_shared<MemoryJournal>(name, uid, retention, clock_));
  return absl::OkStatus();
}

absl::Status MemoryJournalStore::Delete(const CollectionName& name) {
  std::shared_ptr<MemoryJournal> journal;
  {
    absl::MutexLock lock(&mu_);
    auto it = journals_.find(name);
    if (it == journals_.end()) return absl::OkStatus();
    journal = it->second;
    journals_.erase(it);
  }
  journal->MarkDeleted();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Journal>> MemoryJournalStore::Find(const CollectionName& name) {
  absl::MutexLock lock(&mu_);
  auto it = journals_.find(name);
  if (it == journals_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no journal of collection ", name.str()));
  }
  return std::static_pointer_cast<Journal>(it->second);
}

std::vector<std::shared_ptr<Journal>> MemoryJournalStore::List() {
  absl::MutexLock lock(&mu_);
  std::vector<std::shared_ptr<Journal>> out;
  for (const auto& [name, journal] : journals_) out.push_back(journal);
  return out;
}

}  // namespace intermezzo::journal
