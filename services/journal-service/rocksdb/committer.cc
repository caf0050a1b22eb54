#include "services/journal-service/rocksdb/committer.h"

#include <rocksdb/write_batch.h>

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log/log.h"
#include "services/common/types/view.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/rocksdb/database.h"
#include "services/journal-service/rocksdb/format.h"

namespace intermezzo::journal {
namespace {

// Groups that may wait to be told before the commit thread waits too.
constexpr size_t kMaxToTell = 4;

absl::Status DeletedError(const CollectionName& name) {
  return absl::NotFoundError(absl::StrCat("collection ", name.str(), " was deleted"));
}

}  // namespace

size_t Change::bytes() const {
  const auto* append = std::get_if<AppendChange>(&what);
  return append != nullptr ? append->batch.bytes : 64;
}

size_t Change::records() const {
  const auto* append = std::get_if<AppendChange>(&what);
  return append != nullptr ? append->batch.entries.size() : 1;
}

// What one synced write will hold, decided in order.
class Committer::Group {
 public:
  Group(Database& database, absl::Time now, JournalObserver& observer)
      : database_(database), now_(now), observer_(observer) {}

  // Decides on a change; what its caller is to be told once the write's outcome is known is queued.
  void Add(Change change, bool low_space) {
    Work& work = WorkOf(change.journal);
    std::visit([&](auto& what) { Decide(work, what, low_space); }, change.what);
  }

  // Everything decided, as one batch; empty where nothing changes.
  rocksdb::WriteBatch& Batch() {
    for (auto& [key, work] : works_) {
      if (!work.deleted) Write(work);
    }
    return batch_;
  }

  // After the write: publishes where it succeeded, and leaves what is to be told, in order.
  std::vector<Told> Finish(const absl::Status& outcome) {
    outcome_ = std::make_shared<absl::Status>(outcome);
    std::vector<Told> told;
    told.reserve(answers_.size() + works_.size());
    if (outcome.ok()) {
      for (auto& [key, work] : works_) Publish(work);
    }
    // Readers first: others wait for what they read.
    if (outcome.ok()) {
      for (auto& [key, work] : works_) {
        if (work.changed) told.push_back([journal = work.journal] { journal->Notify(); });
      }
    }
    for (auto& answer : answers_) {
      told.push_back([answer = std::move(answer), outcome = outcome_] { answer(*outcome); });
    }
    return told;
  }

 private:
  struct Work {
    Work(std::shared_ptr<RocksDbJournal> journal, const Database* database)
        : journal(std::move(journal)),
          state(this->journal->State()),
          deleted(this->journal->deleted()),
          table(database, this->journal->uid()),
          overlay(&table) {}
    const std::shared_ptr<RocksDbJournal> journal;
    JournalState state;
    bool changed = false;  // the state's row must be written
    bool deleted;
    DatabaseTable table;
    VersionOverlay overlay;
    std::map<uint64_t, OriginState> origins;  // changed ones
    std::vector<EntryPtr> entries;
    std::optional<std::vector<Cursor>> cursors;
  };
  using Answer = std::function<void(const absl::Status& outcome)>;

  Work& WorkOf(const std::shared_ptr<RocksDbJournal>& journal) {
    return works_.try_emplace(journal.get(), journal, &database_).first->second;
  }

  absl::StatusOr<OriginState> OriginOf(Work& work, uint64_t ordinal) {
    if (auto it = work.origins.find(ordinal); it != work.origins.end()) return it->second;
    auto& known = work.journal->origins();
    if (auto it = known.find(ordinal); it != known.end()) return it->second;
    auto row = database_.Get(Family::kOrigins, format::OriginKey(work.journal->uid(), ordinal));
    if (absl::IsNotFound(row.status())) return OriginState();
    if (!row.ok()) return row.status();
    auto state = format::DecodeOrigin(*row);
    if (state.ok()) known[ordinal] = *state;
    return state;
  }

  absl::StatusOr<Confirmation> Admit(Work& work, PreparedBatch& batch, bool low_space) {
    if (work.deleted) return DeletedError(work.journal->name());
    if (low_space && !batch.entries.empty()) {
      return absl::ResourceExhaustedError(
          "the journal-service's disk is full: free some space, nothing was appended");
    }
    auto origin = OriginOf(work, batch.ordinal.value());
    if (!origin.ok()) return origin.status();
    const Epoch epoch_before = work.state.epoch;
    const size_t entries_before = work.entries.size();
    auto confirmation = AdmitBatch(work.journal->name(), batch, now_, work.state, *origin,
                                   work.overlay, work.entries);
    if (!confirmation.ok()) return confirmation;
    if (work.entries.size() > entries_before) {
      work.origins[batch.ordinal.value()] = *std::move(origin);
      work.changed = true;
    }
    if (work.state.epoch != epoch_before) work.changed = true;
    return confirmation;
  }

  void Decide(Work& work, AppendChange& what, bool low_space) {
    const size_t before = work.entries.size();
    auto confirmation = Admit(work, what.batch, low_space);
    const uint64_t records = work.entries.size() - before;
    uint64_t bytes = 0;
    for (size_t i = before; i < work.entries.size(); ++i) bytes += work.entries[i]->bytes();
    answers_.push_back(
        [this_observer = &observer_, name = work.journal->name(), done = std::move(what.done),
         queued = what.queued, records, bytes,
         confirmation = std::move(confirmation)](const absl::Status& outcome) mutable {
          if (!confirmation.ok()) {
            this_observer->OnRefused(name, confirmation.status());
            done(std::move(confirmation));
          } else if (!outcome.ok()) {
            this_observer->OnRefused(name, outcome);
            done(outcome);
          } else {
            this_observer->OnAppend(name, absl::Now() - queued, records, bytes);
            done(std::move(confirmation));
          }
        });
  }

  void Decide(Work& work, FenceChange& what, bool low_space) {
    absl::Status status = work.deleted ? DeletedError(work.journal->name()) : absl::OkStatus();
    const Epoch before = work.state.epoch;
    if (status.ok()) status = AdmitFence(work.journal->name(), what.epoch, work.state);
    if (work.state.epoch != before) work.changed = true;
    answers_.push_back([done = std::move(what.done), status = std::move(status),
                        head = work.state.head](const absl::Status& outcome) mutable {
      if (!status.ok()) return done(std::move(status));
      if (!outcome.ok()) return done(outcome);
      done(head);
    });
  }

  void Decide(Work& work, CursorsChange& what, bool low_space) {
    if (work.deleted) return AnswerWith(std::move(what.done), DeletedError(work.journal->name()));
    work.cursors = std::move(what.cursors);
    AnswerWith(std::move(what.done), absl::OkStatus());
  }

  void Decide(Work& work, TrimChange& what, bool low_space) {
    if (work.deleted) return AnswerWith(std::move(what.done), DeletedError(work.journal->name()));
    if (what.first > work.state.first) {
      const uint64_t uid = work.journal->uid();
      const std::string begin = format::EntryKey(uid, work.state.first);
      const std::string end = format::EntryKey(uid, what.first);
      batch_.DeleteRange(database_.family(Family::kEntries), begin, end);
      batch_.DeleteRange(database_.family(Family::kPayloads), begin, end);
      work.state.first = what.first;
      work.state.base_chain = std::move(what.base_chain);
      work.state.trimmed_bytes += what.bytes;
      work.changed = true;
    }
    AnswerWith(std::move(what.done), absl::OkStatus());
  }

  void Decide(Work& work, CreateChange& what, bool low_space) {
    work.changed = true;
    work.overlay.Put(kRootObject, FreshRoot());
    AnswerWith(std::move(what.done), absl::OkStatus());
  }

  void Decide(Work& work, DeleteChange& what, bool low_space) {
    if (!work.deleted) {
      // What the group did to it before is not written; what the database has goes.
      work.deleted = true;
      work.changed = true;
      const uint64_t uid = work.journal->uid();
      for (Family family :
           {Family::kEntries, Family::kPayloads, Family::kVersions, Family::kOrigins}) {
        batch_.DeleteRange(database_.family(family), format::UidBegin(uid), format::UidEnd(uid));
      }
      batch_.Delete(database_.family(Family::kMeta), format::JournalKey(uid));
      batch_.Delete(database_.family(Family::kMeta), format::CursorsKey(uid));
    }
    AnswerWith(std::move(what.done), absl::OkStatus());
  }

  void AnswerWith(std::function<void(absl::Status)> done, absl::Status status) {
    answers_.push_back([done = std::move(done), status = std::move(status)](
                           const absl::Status& outcome) { done(status.ok() ? outcome : status); });
  }

  void Write(Work& work) {
    const uint64_t uid = work.journal->uid();
    for (const EntryPtr& stored : work.entries) {
      const std::string key = format::EntryKey(uid, Seq(stored->entry.seq()));
      stored->entry.SerializeToString(&scratch_);
      batch_.Put(database_.family(Family::kEntries), key, scratch_);
      if (!stored->payload.empty()) {
        batch_.Put(database_.family(Family::kPayloads), key, stored->payload);
      }
    }
    for (const auto& [object, state] : work.overlay.objects()) {
      WriteRow(Family::kVersions, format::ObjectKey(uid, object),
               state.exists() ? format::EncodeObject(state) : std::string());
    }
    for (const auto& [key, state] : work.overlay.entries()) {
      WriteRow(Family::kVersions, format::NameKey(uid, key.first, key.second),
               state.exists() ? format::EncodeEntry(state) : std::string());
    }
    for (const auto& [ordinal, state] : work.origins) {
      WriteRow(Family::kOrigins, format::OriginKey(uid, ordinal), format::EncodeOrigin(state));
    }
    if (work.cursors) {
      WriteRow(Family::kMeta, format::CursorsKey(uid), format::EncodeCursors(*work.cursors));
    }
    if (work.changed) {
      WriteRow(Family::kMeta, format::JournalKey(uid),
               format::EncodeJournal({work.journal->name().str(), work.state}));
    }
  }

  // An empty value: the row goes.
  void WriteRow(Family family, const std::string& key, const std::string& value) {
    if (value.empty() && family == Family::kVersions) {
      batch_.Delete(database_.family(family), key);
    } else {
      batch_.Put(database_.family(family), key, value);
    }
  }

  void Publish(Work& work) {
    if (work.deleted) {
      if (work.changed) {
        work.journal->PublishDeleted();
        observer_.OnDeleted(work.journal->name());
      }
      return;
    }
    for (auto& [ordinal, state] : work.origins) work.journal->origins()[ordinal] = state;
    if (work.cursors) work.journal->PublishCursors(*std::move(work.cursors));
    if (work.changed) {
      work.journal->Publish(work.state, work.entries);
      observer_.OnState(work.journal->name(), work.state);
    }
  }

  Database& database_;
  const absl::Time now_;
  JournalObserver& observer_;
  rocksdb::WriteBatch batch_;
  std::string scratch_;
  std::map<RocksDbJournal*, Work> works_;
  std::vector<Answer> answers_;
  std::shared_ptr<absl::Status> outcome_;
};

Committer::Committer(Database& database, Clock clock, JournalObserver& observer, Limits limits)
    : database_(database), clock_(std::move(clock)), observer_(observer), limits_(limits) {
  commit_thread_ = std::thread([this] { CommitLoop(); });
  tell_thread_ = std::thread([this] { TellLoop(); });
}

Committer::~Committer() { Stop(); }

void Committer::Submit(Change change) {
  absl::Status refused;
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) {
      refused = absl::UnavailableError("the journal is stopping");
    } else if (!queue_.empty() && (queue_bytes_ + change.bytes() > limits_.queue_bytes ||
                                   queue_records_ + change.records() > limits_.queue_records)) {
      refused = absl::UnavailableError("the journal's queue is full: try again later");
    } else {
      queue_bytes_ += change.bytes();
      queue_records_ += change.records();
      queue_.push_back(std::move(change));
      return;
    }
  }
  std::visit([&](auto& what) { what.done(refused); }, change.what);
}

void Committer::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (commit_thread_.joinable()) commit_thread_.join();
  {
    absl::MutexLock lock(&mu_);
    committed_all_ = true;
  }
  if (tell_thread_.joinable()) tell_thread_.join();
}

void Committer::CommitLoop() {
  while (true) {
    std::vector<Change> changes;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return (stopping_ || !queue_.empty()) && to_tell_.size() < kMaxToTell;
      };
      mu_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      size_t bytes = 0;
      size_t records = 0;
      while (!queue_.empty()) {
        const size_t more_bytes = queue_.front().bytes();
        const size_t more_records = queue_.front().records();
        if (!changes.empty() && (bytes + more_bytes > limits_.group_bytes ||
                                 records + more_records > limits_.group_records)) {
          break;
        }
        bytes += more_bytes;
        records += more_records;
        changes.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      queue_bytes_ -= bytes;
      queue_records_ -= records;
    }
    Commit(std::move(changes));
  }
}

void Committer::Commit(std::vector<Change> changes) {
  absl::Status outcome = Recover();
  if (!outcome.ok()) return RefuseAll(std::move(changes), outcome);
  Group group(database_, clock_(), observer_);
  const bool low_space = low_space_;
  for (Change& change : changes) group.Add(std::move(change), low_space);
  rocksdb::WriteBatch& batch = group.Batch();
  if (batch.Count() > 0) {
    rocksdb::WriteOptions options;
    options.sync = true;
    const absl::Time before = absl::Now();
    outcome = FromRocksDb(database_.db().Write(options, &batch), "committing");
    observer_.OnSync(absl::Now() - before);
    if (!outcome.ok()) {
      log::Error("journal write failed, nothing of it is confirmed",
                 {{"error", std::string(outcome.message())}});
      failure_ = outcome;
      next_recovery_ = absl::Now() + limits_.recovery_pause;
    }
  }
  Tell(group.Finish(outcome));
}

void Committer::RefuseAll(std::vector<Change> changes, const absl::Status& status) {
  std::vector<Told> told;
  for (Change& change : changes) {
    auto shared = std::make_shared<Change>(std::move(change));
    told.push_back([this, shared, status] {
      if (std::holds_alternative<AppendChange>(shared->what)) {
        observer_.OnRefused(shared->journal->name(), status);
      }
      std::visit([&](auto& what) { what.done(status); }, shared->what);
    });
  }
  Tell(std::move(told));
}

absl::Status Committer::Recover() {
  if (failure_.ok()) return absl::OkStatus();
  if (absl::Now() < next_recovery_) return failure_;
  next_recovery_ = absl::Now() + limits_.recovery_pause;
  if (absl::Status status = recovery_(); !status.ok()) return status;
  log::Info("journal writes work again");
  failure_ = absl::OkStatus();
  return absl::OkStatus();
}

void Committer::Tell(std::vector<Told> told) {
  {
    absl::MutexLock lock(&mu_);
    // Under load the other thread tells, and so it does while it still has something to tell.
    if (telling_ || !to_tell_.empty() || !queue_.empty()) {
      to_tell_.push_back(std::move(told));
      return;
    }
  }
  for (const Told& tell : told) tell();
}

void Committer::TellLoop() {
  while (true) {
    std::vector<Told> told;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return committed_all_ || !to_tell_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (to_tell_.empty()) return;
      told = std::move(to_tell_.front());
      to_tell_.pop_front();
      telling_ = true;
    }
    for (const Told& tell : told) tell();
    absl::MutexLock lock(&mu_);
    telling_ = false;
  }
}

}  // namespace intermezzo::journal
