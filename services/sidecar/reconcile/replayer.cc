#include "services/sidecar/reconcile/replayer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/status/errno.h"

namespace intermezzo::sidecar {
namespace {

ReplayMaps LoadMaps(const NodeDb& db) {
  ReplayMaps maps;
  storage::v1::ReplayMapsRow row;
  row.ParseFromString(db.Note(kMapsNote).value_or(""));
  for (const auto& object : row.objects()) maps.objects[object.from()] = object.to();
  for (const auto& name : row.names()) maps.names[{name.directory(), name.from()}] = name.to();
  return maps;
}

void Learn(const ReplayMaps& learned, const NodeDb& db, NodeDb::Batch& batch) {
  if (learned.objects.empty() && learned.names.empty()) return;
  ReplayMaps maps = LoadMaps(db);
  for (const auto& [from, to] : learned.objects) maps.objects[from] = to;
  for (const auto& [from, to] : learned.names) maps.names[from] = to;
  storage::v1::ReplayMapsRow row;
  for (const auto& [from, to] : maps.objects) {
    auto& object = *row.add_objects();
    object.set_from(from);
    object.set_to(to);
  }
  for (const auto& [from, to] : maps.names) {
    auto& name = *row.add_names();
    name.set_directory(from.first);
    name.set_from(from.second);
    name.set_to(to);
  }
  batch.PutNote(kMapsNote, row.SerializeAsString());
}

}  // namespace

std::string FormerNote(uint64_t object) { return absl::StrCat("former/", object); }

absl::Status Replayer::Run() {
  const NodeDb& db = replica_.db();
  ReplayRules::Context context = {
      .db = &db,
      .node = replica_.options().node,
      .ordinal = replica_.options().ordinal,
      .first_replayed = db.State().first_replayed(),
      .former = [&db](ObjectId id) -> std::optional<storage::v1::ObjectRow> {
        const auto note = db.Note(FormerNote(id.value()));
        storage::v1::ObjectRow row;
        if (!note || !row.ParseFromString(*note)) return std::nullopt;
        return row;
      },
      .has_local_version = [this](ObjectId id) { return store_.HasLocalVersion(id); },
      .attributes = [this](ObjectId id) -> std::optional<record::v1::Attributes> {
        const auto row = replica_.db().Object(id);
        if (!row) return std::nullopt;
        const auto fd = replica_.lower().OpenObject({row->handle_type(), row->handle()}, O_PATH);
        struct stat st;
        if (!fd.ok() || fstat(fd->get(), &st) != 0) return std::nullopt;
        return AttributesOf(st);
      },
      .new_object = [this] { return replica_.NewObjectId(); },
  };
  ReplayRules rules(std::move(context), LoadMaps(db));
  const uint64_t through = db.State().replay_through();
  if (absl::Status status = ResumeCopy(through); !status.ok()) return status;
  uint64_t after = 0;
  for (;;) {
    const auto queued = db.ReadLocal(after, 1, 1);
    if (queued.empty() || queued[0].first > through) return Finish();
    after = queued[0].first;
    if (absl::Status status = Replay(rules, after, queued[0].second); !status.ok()) return status;
  }
}

absl::Status Replayer::Replay(ReplayRules& rules, uint64_t origin_seq,
                              const record::v1::Entry& entry) {
  absl::StatusOr<record::v1::Record> record = OpenRecord(entry);
  if (!record.ok()) return record.status();
  absl::StatusOr<std::string> payload = OpenPayload(entry, *record);
  if (!payload.ok()) return payload.status();

  absl::MutexLock lock(&replica_.update_lock());
  ReplayDecision decision = rules.Decide(*record);
  if (!decision.conflict.empty()) {
    storage::v1::ConflictRow row;
    row.set_kind(decision.conflict);
    row.set_outcome(decision.outcome);
    *row.mutable_record() = entry;
    if (absl::Status status = store_.Log(origin_seq, row); !status.ok()) return status;
    if (conflict_) conflict_(decision.conflict);
    log::Warning("conflict", {{"collection", replica_.options().collection.str()},
                              {"kind", decision.conflict},
                              {"record", Describe(*record)},
                              {"outcome", decision.outcome}});
  }
  const NodeDb& db = replica_.db();
  auto leaves_queue = [&](NodeDb::Batch& batch) {
    Learn(decision.learned, db, batch);
    batch.DropLocal(origin_seq);
  };
  if (decision.steps.empty()) {
    auto batch = replica_.mutable_db().NewBatch();
    leaves_queue(*batch);
    absl::Status status = replica_.mutable_db().Commit(std::move(batch), /*sync=*/false);
    if (status.ok()) replica_.LeftReplayQueue();
    return status;
  }
  for (size_t i = 0; i < decision.steps.size(); ++i) {
    ReplayStep& step = decision.steps[i];
    // Made again after a restart between two steps: the maps know what the first ones made.
    auto rider = [&](NodeDb::Batch& batch) {
      if (i + 1 == decision.steps.size()) {
        leaves_queue(batch);
      } else {
        Learn(decision.learned, db, batch);
      }
    };
    auto made = [&](NodeDb::Batch& batch) { Learn(decision.learned, db, batch); };
    auto copied = [&](NodeDb::Batch& batch) {
      batch.RemoveNote(kCopyingNote);
      batch.DropLocal(origin_seq);
    };
    absl::Status status =
        step.data == ReplayStep::Data::kLocalVersion  // always the last step
            ? CopyLocalVersion(step.local_version_of, std::move(step.record), made, copied)
            : replica_.MakeUpdate(std::move(step.record),
                                  step.data == ReplayStep::Data::kQueued ? *payload : "", rider);
    if (!status.ok()) return status;
  }
  replica_.LeftReplayQueue();
  return absl::OkStatus();
}

absl::Status Replayer::CopyLocalVersion(ObjectId from, record::v1::Record create,
                                        const std::function<void(NodeDb::Batch&)>& made,
                                        const std::function<void(NodeDb::Batch&)>& copied) {
  replica_.update_lock().AssertHeld();
  absl::StatusOr<record::v1::CreateOp> meta = store_.LocalAttributes(from);
  if (!meta.ok()) return meta.status();
  record::v1::CreateOp& op = *create.mutable_create();
  *op.mutable_attributes() = meta->attributes();
  *op.mutable_xattrs() = meta->xattrs();
  const uint64_t object = op.object();
  auto rider = [&](NodeDb::Batch& batch) {
    made(batch);
    batch.PutNote(kCopyingNote, absl::StrCat(from.value(), "/", object));
  };
  if (absl::Status status = replica_.MakeUpdate(std::move(create), "", rider); !status.ok()) {
    return status;
  }
  return CopyContent(from, object, copied);
}

absl::Status Replayer::CopyContent(ObjectId from, uint64_t to,
                                   const std::function<void(NodeDb::Batch&)>& copied) {
  replica_.update_lock().AssertHeld();
  absl::StatusOr<record::v1::CreateOp> meta = store_.LocalAttributes(from);
  if (!meta.ok()) return meta.status();
  absl::StatusOr<UniqueFd> fd = store_.OpenLocalVersion(from);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "a local version");
  const auto nothing = [](NodeDb::Batch&) {};
  std::string piece;
  for (off_t at = 0; at < st.st_size;) {
    const off_t data = lseek(fd->get(), at, SEEK_DATA);
    if (data < 0) break;  // a hole to the end
    off_t hole = lseek(fd->get(), data, SEEK_HOLE);
    if (hole < 0) hole = st.st_size;
    at = std::min<off_t>(hole, data + static_cast<off_t>(kMaxPayloadBytes));
    piece.resize(static_cast<size_t>(at - data));
    const ssize_t n = pread(fd->get(), piece.data(), piece.size(), data);
    if (n != static_cast<ssize_t>(piece.size())) return StatusFromErrno(EIO, "a local version");
    record::v1::Record record;
    auto& write = *record.mutable_write();
    write.set_object(to);
    write.add_extents()->set_offset(static_cast<uint64_t>(data));
    write.mutable_extents(0)->set_length(piece.size());
    write.set_size(static_cast<uint64_t>(at));
    *write.mutable_mtime() = meta->attributes().mtime();
    if (absl::Status status = replica_.MakeUpdate(std::move(record), piece, nothing);
        !status.ok()) {
      return status;
    }
  }
  // The size (of a hole at the end too), and with it the queue moves on.
  record::v1::Record record;
  auto& truncate = *record.mutable_truncate();
  truncate.set_object(to);
  truncate.set_size(static_cast<uint64_t>(st.st_size));
  *truncate.mutable_mtime() = meta->attributes().mtime();
  return replica_.MakeUpdate(std::move(record), "", copied);
}

absl::Status Replayer::ResumeCopy(uint64_t through) {
  absl::MutexLock lock(&replica_.update_lock());
  const auto note = replica_.db().Note(kCopyingNote);
  if (!note) return absl::OkStatus();
  const std::pair<std::string, std::string> ids = absl::StrSplit(*note, '/');
  uint64_t from = 0;
  uint64_t to = 0;
  const auto queued = replica_.db().ReadLocal(0, 1, 1);
  if (!absl::SimpleAtoi(ids.first, &from) || !absl::SimpleAtoi(ids.second, &to) || queued.empty() ||
      queued[0].first > through) {
    return absl::DataLossError("the replay's notes do not fit its queue");
  }
  absl::Status status = CopyContent(ObjectId(from), to, [&](NodeDb::Batch& batch) {
    batch.RemoveNote(kCopyingNote);
    batch.DropLocal(queued[0].first);
  });
  if (status.ok()) replica_.LeftReplayQueue();
  return status;
}

absl::Status Replayer::Finish() {
  absl::MutexLock lock(&replica_.update_lock());
  NodeDb& db = replica_.mutable_db();
  auto batch = db.NewBatch();
  storage::v1::ReplicaRow state = replica_.state();
  state.set_replayed_through(state.replay_through());
  state.set_replay_through(0);
  state.set_reset_done(false);
  state.set_first_replayed(0);
  batch->PutState(state);
  batch->RemoveNote(kMapsNote);
  batch->RemoveNote(kFormersNote);
  for (const std::string& name : db.NoteNames("former/")) batch->RemoveNote(name);
  if (absl::Status status = db.Commit(std::move(batch), /*sync=*/true); !status.ok()) {
    return status;
  }
  return replica_.ReloadState();
}

}  // namespace intermezzo::sidecar
