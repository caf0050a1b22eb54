#include "services/journal-service/rocksdb/rocksdb_journal.h"

#include <rocksdb/iterator.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/journal-service/rocksdb/committer.h"
#include "services/journal-service/rocksdb/database.h"
#include "services/journal-service/rocksdb/format.h"

namespace intermezzo::journal {
namespace {

// Entries that one Trim looks at.
constexpr uint64_t kMaxTrim = 20'000;
constexpr size_t kReadahead = 1 << 20;

// Waits for a change whose answer is a Status.
template <typename What>
absl::Status SubmitAndWait(Committer& committer, std::shared_ptr<RocksDbJournal> journal,
                           What what) {
  absl::Notification finished;
  absl::Status result;
  what.done = [&](absl::Status status) {
    result = std::move(status);
    finished.Notify();
  };
  committer.Submit({std::move(journal), std::move(what)});
  finished.WaitForNotification();
  return result;
}

}  // namespace

RocksDbJournal::RocksDbJournal(CollectionName name, JournalState state, std::vector<Cursor> cursors,
                               Database& database, Committer& committer, Clock clock,
                               size_t tail_cache_bytes)
    : name_(std::move(name)),
      uid_(state.uid),
      database_(database),
      committer_(committer),
      clock_(std::move(clock)),
      state_(std::move(state)),
      cursors_(std::move(cursors)),
      cache_(tail_cache_bytes) {}

absl::Status RocksDbJournal::CheckAlive() const {
  if (!deleted_) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("collection ", name_.str(), " was deleted"));
}

void RocksDbJournal::Append(PreparedBatch batch,
                            std::function<void(absl::StatusOr<Confirmation>)> done) {
  committer_.Submit(
      {shared_from_this(), AppendChange{std::move(batch), std::move(done), absl::Now()}});
}

void RocksDbJournal::Fence(Epoch epoch, std::function<void(absl::StatusOr<Seq>)> done) {
  committer_.Submit({shared_from_this(), FenceChange{epoch, std::move(done)}});
}

absl::Status RocksDbJournal::SetCursors(std::vector<Cursor> cursors) {
  return SubmitAndWait(committer_, shared_from_this(), CursorsChange{std::move(cursors), nullptr});
}

bool RocksDbJournal::ReadCached(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) {
  absl::MutexLock lock(&mu_);
  if (deleted_) return false;
  if (from == state_.head.next()) return true;
  return from >= state_.first && cache_.Read(from, options, out);
}

absl::StatusOr<std::vector<EntryPtr>> RocksDbJournal::Read(Seq from, const ReadOptions& options) {
  Seq head;
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
    if (absl::Status status = CheckReadable(name_, state_, from); !status.ok()) return status;
    std::vector<EntryPtr> out;
    if (from > state_.head || cache_.Read(from, options, out)) return out;
    head = state_.head;
  }
  auto read = ReadDisk(from, head, options);
  if (read.ok() && read->empty()) return Missing(from);
  return read;
}

absl::Status RocksDbJournal::Missing(Seq seq) const {
  // A trim's entries are gone a moment before the state says so.
  absl::MutexLock trimming(&trimming_);
  absl::MutexLock lock(&mu_);
  if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  if (absl::Status status = CheckReadable(name_, state_, seq); !status.ok()) return status;
  return absl::DataLossError(
      absl::StrCat("collection ", name_.str(), ": entry ", seq.value(), " is missing"));
}

absl::StatusOr<std::vector<EntryPtr>> RocksDbJournal::ReadDisk(Seq from, Seq head,
                                                               const ReadOptions& options) {
  Database::Use use(database_);
  if (absl::Status open = database_.CheckOpen(); !open.ok()) return open;
  const std::string end = format::EntryKey(uid_, head.next());
  const rocksdb::Slice end_slice(end);
  rocksdb::ReadOptions disk;
  disk.iterate_upper_bound = &end_slice;
  disk.readahead_size = std::min(kReadahead, std::max<size_t>(options.max_bytes, 64 << 10));
  std::unique_ptr<rocksdb::Iterator> entries(
      database_.db().NewIterator(disk, database_.family(Family::kEntries)));
  std::unique_ptr<rocksdb::Iterator> payloads;  // follows `entries`, made when first needed

  std::vector<EntryPtr> out;
  ReadBudget budget(options);
  Seq seq = from;
  for (entries->Seek(format::EntryKey(uid_, from)); entries->Valid(); entries->Next()) {
    const std::string key = format::EntryKey(uid_, seq);
    if (entries->key() != rocksdb::Slice(key)) return std::vector<EntryPtr>();
    auto stored = std::make_shared<StoredEntry>();
    const rocksdb::Slice value = entries->value();
    record::v1::Record record;
    if (!stored->entry.ParseFromArray(value.data(), static_cast<int>(value.size())) ||
        !record.ParseFromString(stored->entry.record())) {
      return absl::DataLossError(
          absl::StrCat("collection ", name_.str(), ": entry ", seq.value(), " is broken"));
    }
    stored->version = Version(record.version());
    if (!budget.Take(*stored)) break;
    if (stored->entry.payload_length() > 0 && !options.Skips(stored->version)) {
      if (payloads == nullptr) {
        payloads.reset(database_.db().NewIterator(disk, database_.family(Family::kPayloads)));
        payloads->Seek(key);
      } else if (payloads->Valid() && payloads->key().compare(key) < 0) {
        payloads->Next();
        if (payloads->Valid() && payloads->key().compare(key) < 0) payloads->Seek(key);
      }
      if (!payloads->Valid() || payloads->key() != rocksdb::Slice(key)) {
        if (!payloads->status().ok()) return FromRocksDb(payloads->status(), "reading payloads");
        return std::vector<EntryPtr>();
      }
      stored->payload = payloads->value().ToString();
    }
    out.push_back(std::move(stored));
    seq = seq.next();
  }
  if (!entries->status().ok()) return FromRocksDb(entries->status(), "reading entries");
  return out;
}

absl::StatusOr<std::string> RocksDbJournal::ChainAt(Seq seq) {
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
    if (seq == state_.head) return state_.head_chain;
    if (seq.next() == state_.first) return state_.base_chain;
    if (absl::Status status = CheckReadable(name_, state_, seq); !status.ok()) return status;
    if (absl::Status status = CheckReadable(name_, state_, seq.next()); !status.ok()) {
      return status;
    }
    if (EntryPtr stored = cache_.At(seq)) return stored->entry.chain();
  }
  auto row = database_.Get(Family::kEntries, format::EntryKey(uid_, seq));
  if (absl::IsNotFound(row.status())) return Missing(seq);
  if (!row.ok()) return row.status();
  record::v1::Entry entry;
  if (!entry.ParseFromString(*row)) {
    return absl::DataLossError(
        absl::StrCat("collection ", name_.str(), ": entry ", seq.value(), " is broken"));
  }
  return entry.chain();
}

JournalState RocksDbJournal::State() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

absl::StatusOr<OriginState> RocksDbJournal::Origin(Ordinal ordinal) const {
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
  }
  auto row = database_.Get(Family::kOrigins, format::OriginKey(uid_, ordinal.value()));
  if (absl::IsNotFound(row.status())) return OriginState();
  if (!row.ok()) return row.status();
  return format::DecodeOrigin(*row);
}

absl::StatusOr<uint64_t> RocksDbJournal::FindTrimmable(Seq limit, int64_t before_ns,
                                                       TrimChange& change) const {
  Database::Use use(database_);
  if (absl::Status open = database_.CheckOpen(); !open.ok()) return open;
  const std::string end = format::EntryKey(uid_, limit.next());
  const rocksdb::Slice end_slice(end);
  rocksdb::ReadOptions disk;
  disk.iterate_upper_bound = &end_slice;
  disk.fill_cache = false;
  std::unique_ptr<rocksdb::Iterator> entries(
      database_.db().NewIterator(disk, database_.family(Family::kEntries)));
  uint64_t count = 0;
  for (entries->Seek(format::EntryKey(uid_, change.first)); entries->Valid() && count < kMaxTrim;
       entries->Next()) {
    record::v1::Entry entry;
    const rocksdb::Slice value = entries->value();
    if (!entry.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      return absl::DataLossError(
          absl::StrCat("collection ", name_.str(), ": entry ", change.first.value(), " is broken"));
    }
    if (entry.committed_ns() >= before_ns) break;
    change.bytes += entry.record().size() + entry.payload_length();
    change.base_chain = entry.chain();
    change.first = Seq(entry.seq()).next();
    ++count;
  }
  if (!entries->status().ok()) return FromRocksDb(entries->status(), "reading entries");
  return count;
}

absl::StatusOr<uint64_t> RocksDbJournal::Trim() {
  absl::MutexLock trimming(&trimming_);
  JournalState state;
  Seq limit;
  {
    absl::MutexLock lock(&mu_);
    if (absl::Status alive = CheckAlive(); !alive.ok()) return alive;
    state = state_;
    limit = TrimLimit(state_, cursors_);
  }
  if (limit < state.first) return 0;
  const int64_t before_ns = absl::ToUnixNanos(clock_() - state.retention);
  TrimChange change{state.first, "", 0, nullptr};

  auto count = FindTrimmable(limit, before_ns, change);
  if (!count.ok() || *count == 0) return count;
  absl::Status status = SubmitAndWait(committer_, shared_from_this(), std::move(change));
  if (!status.ok()) return status;
  return count;
}

void RocksDbJournal::Publish(const JournalState& state, const std::vector<EntryPtr>& entries) {
  absl::MutexLock lock(&mu_);
  state_ = state;
  for (const EntryPtr& entry : entries) cache_.Push(entry);
}

void RocksDbJournal::PublishCursors(std::vector<Cursor> cursors) {
  absl::MutexLock lock(&mu_);
  cursors_ = std::move(cursors);
}

void RocksDbJournal::PublishDeleted() {
  absl::MutexLock lock(&mu_);
  deleted_ = true;
  cache_.Clear();
}

void RocksDbJournal::Reload(const JournalState& state) {
  absl::MutexLock lock(&mu_);
  origins_.clear();
  if (state.head_chain != state_.head_chain) cache_.Clear();
  state_ = state;
}

void RocksDbJournal::Notify() {
  JournalEvent event;
  {
    absl::MutexLock lock(&mu_);
    event = {state_.head, deleted_};
  }
  watchers_.Notify(event);
}

bool RocksDbJournal::deleted() const {
  absl::MutexLock lock(&mu_);
  return deleted_;
}

}  // namespace intermezzo::journal
