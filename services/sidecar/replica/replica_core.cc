#include "services/sidecar/replica/replica_core.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"

namespace intermezzo::sidecar {
namespace {

constexpr uint32_t kFormat = 1;
constexpr int kExecutorThreads = 2;
// The local journal is read in pieces of this when its index is rebuilt.
constexpr size_t kRebuildRecords = 1000;
constexpr size_t kRebuildBytes = 16 << 20;

}  // namespace

ReplicaCore::ReplicaCore(Replica::Options options, std::unique_ptr<LowerTree> lower,
                         std::unique_ptr<NodeDb> db)
    : options_(std::move(options)),
      lower_(std::move(lower)),
      db_(std::move(db)),
      gate_([] {}, options_.run
                       ? options_.run
                       : [this](std::function<void()> work) { executor_->Run(std::move(work)); }),
      executor_(options_.run ? nullptr : std::make_unique<Executor>(kExecutorThreads)) {}

absl::Status ReplicaCore::Load() {
  absl::MutexLock lock(&update_lock_);
  absl::StatusOr<LowerHandle> root = lower_->HandleAt(lower_->root_fd(), "");
  if (!root.ok()) return root.status();
  state_ = db_->State();
  absl::Status status = state_.format() == 0 ? Initialise(*root) : CheckIdentity(*root);
  if (!status.ok()) return status;
  return ReloadState();
}

absl::Status ReplicaCore::Initialise(const LowerHandle& root) {
  struct stat st;
  if (fstat(lower_->root_fd(), &st) != 0) return StatusFromErrno(errno, "fstat of the root");
  state_.set_format(kFormat);
  state_.set_collection_uid(options_.collection_uid);
  state_.set_instance(options_.instance);
  state_.set_ordinal(static_cast<uint32_t>(options_.ordinal.value()));
  storage::v1::ObjectRow row;
  row.set_kind(record::v1::OBJECT_KIND_DIRECTORY);
  row.set_handle_type(root.type);
  row.set_handle(root.bytes);
  row.set_inode(st.st_ino);
  row.set_data_version(kInitialVersion.value());
  row.set_attributes_version(kInitialVersion.value());
  auto batch = db_->NewBatch();
  batch->PutObject(kRootObject, row);
  batch->PutState(state_);
  return db_->Commit(std::move(batch), /*sync=*/true);
}

absl::Status ReplicaCore::CheckIdentity(const LowerHandle& root) {
  if (state_.collection_uid() != options_.collection_uid) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the node's database is of another collection (uid ", state_.collection_uid(), ", not ",
        options_.collection_uid, " of ", options_.collection.str(),
        "): use another database directory, or remove this one to join the collection anew"));
  }
  if (state_.instance() != options_.instance) {
    return absl::FailedPreconditionError(
        absl::StrCat("the node's database is of another instance (", state_.instance(), ", not ",
                     options_.instance,
                     "): it was copied or restored from another machine; remove it to join the "
                     "collection anew"));
  }
  std::optional<storage::v1::ObjectRow> row = db_->Object(kRootObject);
  if (!row.has_value() || row->handle_type() != root.type || row->handle() != root.bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the lower directory ", lower_->root(),
        " is not the one that the node's database was made ",
        "for: name the former directory, or remove the database to join the collection anew"));
  }
  if (state_.ordinal() != options_.ordinal.value()) {
    if (!db_->ReadLocal(0, 1, 1).empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the node's database holds unsent records of ordinal ", state_.ordinal(),
          ", and the registry gave this instance ordinal ", options_.ordinal.value(),
          ": they cannot be sent under another name; register the node as it was, or remove the ",
          "database to join the collection anew"));
    }
    state_.set_ordinal(static_cast<uint32_t>(options_.ordinal.value()));
    state_.set_last_origin_seq(0);
    state_.set_confirmed_origin_seq(0);
    state_.set_last_object_counter(0);
    auto batch = db_->NewBatch();
    batch->PutState(state_);
    return db_->Commit(std::move(batch), /*sync=*/true);
  }
  return absl::OkStatus();
}

absl::Status ReplicaCore::ReloadState() {
  state_ = db_->State();
  pending_.Clear();
  const uint64_t through = state_.replay_through();
  first_queued_ = through == 0 ? 0 : through + 1;
  queued_ = 0;
  uint64_t last = 0;
  for (;;) {
    auto entries = db_->ReadLocal(last, kRebuildRecords, kRebuildBytes);
    if (entries.empty()) break;
    for (const auto& [origin_seq, entry] : entries) {
      if (origin_seq <= through) {
        // What waits for replay is not in effect: counted only.
        if (queued_++ == 0) first_queued_ = origin_seq;
        last = origin_seq;
        continue;
      }
      absl::StatusOr<record::v1::Record> record = OpenRecord(entry);
      if (!record.ok()) {
        return absl::DataLossError(absl::StrCat("local journal, origin seq ", origin_seq, ": ",
                                                record.status().message()));
      }
      pending_.Add(origin_seq, *record, entry.record());
      last = origin_seq;
    }
  }
  last = std::max(last, through);
  if (last > state_.last_origin_seq()) {
    return absl::DataLossError(absl::StrCat("local journal has origin seq ", last,
                                            ", above the last given, ", state_.last_origin_seq()));
  }
  Publish();
  return absl::OkStatus();
}

void ReplicaCore::LeftReplayQueue() {
  if (queued_ > 0) --queued_;
  Publish();
}

ObjectId ReplicaCore::NewObjectId() {
  state_.set_last_object_counter(state_.last_object_counter() + 1);
  if (state_.last_object_counter() > kMaxCounter) {
    log::Fatal("this incarnation of the node has used up its object ids");
  }
  return ObjectId(options_.ordinal, state_.last_object_counter());
}

record::v1::Record ReplicaCore::NewRecord() const {
  record::v1::Record record;
  record.set_version(Version(options_.ordinal, state_.last_origin_seq() + 1).value());
  record.set_epoch(gate_.authority().epoch.value());
  *record.mutable_time() = ToProto(absl::ToTimespec(options_.now()));
  return record;
}

uint64_t ReplicaCore::TableVersion(const record::v1::Touch& touch) const {
  const ObjectId object(touch.object());
  if (touch.aspect() == record::v1::ASPECT_ENTRY) {
    std::optional<storage::v1::EntryRow> entry = db_->Entry(object, touch.name());
    return entry.has_value() ? entry->version() : 0;
  }
  std::optional<storage::v1::ObjectRow> row = db_->Object(object);
  if (!row.has_value()) return 0;
  return touch.aspect() == record::v1::ASPECT_DATA ? row->data_version()
                                                   : row->attributes_version();
}

absl::Status ReplicaCore::CommitLocal(record::v1::Record record, SealedPayload payload,
                                      std::unique_ptr<NodeDb::Batch> batch) {
  if (absl::Status failed = failure(); !failed.ok()) return Fail(failed);
  const uint64_t origin_seq = Version(record.version()).counter();
  for (record::v1::Touch& touch : RequiredTouches(record)) {
    // A name and an object that are new have no version yet: nothing to look up.
    if (!record.has_create()) touch.set_against(TableVersion(touch));
    *record.add_touches() = std::move(touch);
  }
  const record::v1::Entry entry = SealEntry(record, std::move(payload));
  pending_.Add(origin_seq, record, entry.record());
  batch->AppendLocal(origin_seq, entry);
  state_.set_last_origin_seq(origin_seq);
  return CommitApplied(std::move(batch));
}

absl::Status ReplicaCore::CommitApplied(std::unique_ptr<NodeDb::Batch> batch) {
  batch->PutState(state_);
  if (absl::Status status = db_->Commit(std::move(batch), /*sync=*/false); !status.ok()) {
    return Fail(status);
  }
  Publish();
  return absl::OkStatus();
}

absl::Status ReplicaCore::Fail(const absl::Status& cause) {
  bool first = false;
  {
    absl::MutexLock lock(&published_mu_);
    if (failure_.ok()) {
      failure_ = cause;
      first = true;
    }
  }
  absl::Status answer = StatusFromErrno(
      EIO, absl::StrCat("replica of ", options_.collection.str(), " stopped: ", cause.message()));
  if (first) {
    log::Error("replica stopped: the lower tree and its database may differ",
               {{"collection", options_.collection.str()}, {"error", cause.ToString()}});
    gate_.Fail(answer);
  }
  return answer;
}

absl::Status ReplicaCore::failure() const {
  absl::MutexLock lock(&published_mu_);
  return failure_;
}

void ReplicaCore::SetProgressCallback(std::function<void()> notify) {
  absl::MutexLock lock(&published_mu_);
  notify_ = std::make_shared<const std::function<void()>>(std::move(notify));
}

void ReplicaCore::Publish() {
  std::shared_ptr<const std::function<void()>> notify;
  {
    absl::MutexLock lock(&published_mu_);
    published_.cursor = Seq(state_.cursor());
    published_.chain = state_.chain();
    published_.pending_records = pending_.size() + queued_;
    published_.last_origin_seq = state_.last_origin_seq();
    published_.confirmed_origin_seq = state_.confirmed_origin_seq();
    published_.settled_origin_seq = first_queued_ != 0 ? first_queued_ - 1
                                    : pending_.empty() ? state_.last_origin_seq()
                                                       : pending_.first_origin_seq() - 1;
    published_.replay_through = state_.replay_through();
    notify = notify_;
  }
  if (notify != nullptr && *notify) (*notify)();
}

Seq ReplicaCore::cursor() const {
  absl::MutexLock lock(&published_mu_);
  return published_.cursor;
}

std::string ReplicaCore::chain() const {
  absl::MutexLock lock(&published_mu_);
  return published_.chain;
}

uint64_t ReplicaCore::pending_records() const {
  absl::MutexLock lock(&published_mu_);
  return published_.pending_records;
}

uint64_t ReplicaCore::last_origin_seq() const {
  absl::MutexLock lock(&published_mu_);
  return published_.last_origin_seq;
}

uint64_t ReplicaCore::confirmed_origin_seq() const {
  absl::MutexLock lock(&published_mu_);
  return published_.confirmed_origin_seq;
}

uint64_t ReplicaCore::settled_origin_seq() const {
  absl::MutexLock lock(&published_mu_);
  return published_.settled_origin_seq;
}

uint64_t ReplicaCore::replay_through() const {
  absl::MutexLock lock(&published_mu_);
  return published_.replay_through;
}

}  // namespace intermezzo::sidecar
