#include "services/journal-service/rocksdb/rocksdb_journal_store.h"

#include <rocksdb/iterator.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/common/log/log.h"
#include "services/journal-service/rocksdb/format.h"

namespace intermezzo::journal {

absl::StatusOr<std::unique_ptr<RocksDbJournalStore>> RocksDbJournalStore::Open(Options options) {
  auto database = Database::Open(options.database);
  if (!database.ok()) return database.status();
  std::unique_ptr<RocksDbJournalStore> store(
      new RocksDbJournalStore(std::move(options), *std::move(database)));
  if (absl::Status loaded = store->Load(); !loaded.ok()) return loaded;
  store->Maintain();
  store->maintenance_ = std::thread([store = store.get()] { store->MaintenanceLoop(); });
  return store;
}

RocksDbJournalStore::RocksDbJournalStore(Options options, std::unique_ptr<Database> database)
    : options_(std::move(options)),
      observer_(options_.observer != nullptr ? *options_.observer : nobody_),
      database_(std::move(database)),
      committer_(
          std::make_unique<Committer>(*database_, options_.clock, observer_, options_.limits)) {
  committer_->SetRecovery([this] { return Recover(); });
}

RocksDbJournalStore::~RocksDbJournalStore() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (maintenance_.joinable()) maintenance_.join();
  committer_->Stop();
}

absl::Status RocksDbJournalStore::Load() {
  std::unique_ptr<rocksdb::Iterator> rows(
      database_->db().NewIterator(rocksdb::ReadOptions(), database_->family(Family::kMeta)));
  const std::string prefix(1, format::kJournalPrefix);
  absl::MutexLock lock(&mu_);
  for (rows->Seek(prefix); rows->Valid() && rows->key().starts_with(prefix); rows->Next()) {
    auto row = format::DecodeJournal(rows->value().ToStringView());
    if (!row.ok()) return row.status();
    auto name = CollectionName::Parse(row->name);
    if (!name.ok()) return absl::DataLossError(name.status().message());
    std::vector<Cursor> cursors;
    auto cursors_row = database_->Get(Family::kMeta, format::CursorsKey(row->state.uid));
    if (cursors_row.ok()) {
      auto decoded = format::DecodeCursors(*cursors_row);
      if (!decoded.ok()) return decoded.status();
      cursors = *std::move(decoded);
    } else if (!absl::IsNotFound(cursors_row.status())) {
      return cursors_row.status();
    }
    observer_.OnState(*name, row->state);
    auto journal =
        std::make_shared<RocksDbJournal>(*name, row->state, std::move(cursors), *database_,
                                         *committer_, options_.clock, options_.tail_cache_bytes);
    if (!journals_.emplace(*name, std::move(journal)).second) {
      return absl::DataLossError(absl::StrCat("journal database: two journals ", row->name));
    }
  }
  return FromRocksDb(rows->status(), "reading the journals");
}

absl::Status RocksDbJournalStore::Recover() {
  // A database that cannot write can still read: it stays as it is until there is room.
  if (auto free = database_->FreeBytes(); free.ok() && *free < options_.reserve_bytes) {
    return absl::ResourceExhaustedError(
        "the journal-service's disk is full: free some space, nothing was appended");
  }
  if (absl::Status status = database_->Reopen(); !status.ok()) return status;
  std::vector<std::shared_ptr<RocksDbJournal>> journals;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [name, journal] : journals_) journals.push_back(journal);
  }
  for (const auto& journal : journals) {
    auto value = database_->Get(Family::kMeta, format::JournalKey(journal->uid()));
    if (absl::IsNotFound(value.status())) {  // it was its deletion that seemed to fail
      journal->PublishDeleted();
      journal->Notify();
      absl::MutexLock lock(&mu_);
      journals_.erase(journal->name());
      continue;
    }
    if (!value.ok()) return value.status();
    auto row = format::DecodeJournal(*value);
    if (!row.ok()) return row.status();
    journal->Reload(row->state);
    journal->Notify();
  }
  return absl::OkStatus();
}

absl::Status RocksDbJournalStore::Create(const CollectionName& name, uint64_t uid,
                                         absl::Duration retention) {
  if (uid == 0) return absl::InvalidArgumentError("uid: must not be 0");
  if (retention < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("retention: must not be negative");
  }
  absl::MutexLock changing(&changing_);
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [other, journal] : journals_) {
      if (other == name && journal->uid() == uid) return absl::OkStatus();
      if (other == name || journal->uid() == uid) {
        return absl::AlreadyExistsError(
            absl::StrCat("there is a journal ", other.str(), " with uid ", journal->uid()));
      }
    }
  }
  JournalState state;
  state.uid = uid;
  state.retention = retention;
  auto journal =
      std::make_shared<RocksDbJournal>(name, state, std::vector<Cursor>(), *database_, *committer_,
                                       options_.clock, options_.tail_cache_bytes);
  absl::Notification finished;
  absl::Status status;
  committer_->Submit({journal, CreateChange{[&](absl::Status result) {
                        status = std::move(result);
                        finished.Notify();
                      }}});
  finished.WaitForNotification();
  if (!status.ok()) return status;
  absl::MutexLock lock(&mu_);
  journals_.emplace(name, std::move(journal));
  return absl::OkStatus();
}

absl::Status RocksDbJournalStore::Delete(const CollectionName& name) {
  absl::MutexLock changing(&changing_);
  std::shared_ptr<RocksDbJournal> journal;
  {
    absl::MutexLock lock(&mu_);
    auto it = journals_.find(name);
    if (it == journals_.end()) return absl::OkStatus();
    journal = it->second;
  }
  absl::Notification finished;
  absl::Status status;
  committer_->Submit({journal, DeleteChange{[&](absl::Status result) {
                        status = std::move(result);
                        finished.Notify();
                      }}});
  finished.WaitForNotification();
  if (!status.ok()) return status;
  absl::MutexLock lock(&mu_);
  journals_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Journal>> RocksDbJournalStore::Find(const CollectionName& name) {
  absl::MutexLock lock(&mu_);
  auto it = journals_.find(name);
  if (it == journals_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no journal of collection ", name.str()));
  }
  return std::static_pointer_cast<Journal>(it->second);
}

std::vector<std::shared_ptr<Journal>> RocksDbJournalStore::List() {
  absl::MutexLock lock(&mu_);
  std::vector<std::shared_ptr<Journal>> out;
  for (const auto& [name, journal] : journals_) out.push_back(journal);
  return out;
}

void RocksDbJournalStore::MaintenanceLoop() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), options_.maintenance_interval)) return;
    }
    Maintain();
  }
}

void RocksDbJournalStore::Maintain() {
  if (auto free = database_->FreeBytes(); free.ok()) {
    committer_->SetLowSpace(*free < options_.reserve_bytes);
  }
  for (const auto& journal : List()) {
    auto trimmed = journal->Trim();
    if (!trimmed.ok() && !absl::IsNotFound(trimmed.status())) {
      log::Warning("trimming failed", {{"collection", journal->name().str()},
                                       {"error", std::string(trimmed.status().message())}});
    }
  }
}

}  // namespace intermezzo::journal
