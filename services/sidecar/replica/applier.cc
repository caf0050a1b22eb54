#include "services/sidecar/replica/applier.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/sidecar/replica/links.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::Record;

absl::Status Diverged(const std::string& what) {
  return absl::DataLossError(
      absl::StrCat(what, ": this replica differs from the journal; synchronise it anew"));
}

storage::v1::EntryRow MakeEntry(uint64_t object, uint64_t version) {
  storage::v1::EntryRow row;
  row.set_object(object);
  row.set_version(version);
  return row;
}

void StaleName(Invalidation& stale, uint64_t parent, const std::string& name) {
  stale.entries.push_back({ObjectId(parent), name});
  // A listing is not dropped with a name that is in no cache.
  stale.objects.push_back({ObjectId(parent), 0, 0});
}

void StaleAttributes(Invalidation& stale, uint64_t object) {
  stale.objects.push_back({ObjectId(object), 0, 0});
}

// The existing object whose data the record touches; none: 0.
uint64_t DataObject(const Record& record) {
  switch (record.op_case()) {
    case Record::kRemove:
      return record.remove().last() ? record.remove().object() : 0;
    case Record::kRename:
      return record.rename().replaced_last() ? record.rename().replaced() : 0;
    case Record::kWrite:
      return record.write().object();
    case Record::kTruncate:
      return record.truncate().object();
    case Record::kAllocate:
      return record.allocate().object();
    default:
      return 0;
  }
}

}  // namespace

Applier::Applier(ReplicaCore& core, Cutter& cutter)
    : core_(core), cutter_(cutter), effects_(core.lower(), core.db(), [this](uint64_t object) {
        core_.update_lock().AssertHeld();
        // What this node makes comes after all that is pending.
        return !making_ && core_.pending().SetsMtimeOf(object);
      }) {}

absl::Status Applier::Apply(const record::v1::Entry& entry, Presto* presto) {
  core_.update_lock().AssertHeld();
  if (absl::Status failed = core_.failure(); !failed.ok()) return core_.Fail(failed);
  const storage::v1::ReplicaRow& state = core_.state();
  if (entry.seq() == 0) return absl::InvalidArgumentError("entry.seq: is 0");
  if (entry.seq() <= state.cursor()) return absl::OkStatus();
  if (entry.seq() != state.cursor() + 1) {
    return absl::OutOfRangeError(
        absl::StrCat("entry ", entry.seq(), " does not follow the cursor, ", state.cursor()));
  }
  absl::StatusOr<Record> record = OpenRecord(entry);
  if (!record.ok()) return record.status();
  if (ChainHash(state.chain(), Seq(entry.seq()), entry.record()) != entry.chain()) {
    return Diverged(absl::StrCat("entry ", entry.seq(), " does not continue the chain"));
  }
  if (Version(record->version()).ordinal() == core_.options().ordinal) {
    return Confirm(entry, *record);
  }
  absl::StatusOr<std::string> payload = OpenPayload(entry, *record);
  if (!payload.ok()) return payload.status();

  // Local writers need only the data lock: none may come between the check and the commit.
  std::unique_ptr<absl::MutexLock> data_lock;
  if (const ObjectId object(DataObject(*record)); object) {
    data_lock = std::make_unique<absl::MutexLock>(&cutter_.DataLock(object));
    if (cutter_.IsDirty(object)) {
      return absl::AbortedError(absl::StrCat("forwarded ", Describe(*record),
                                             " meets bytes written here that have no record yet"));
    }
  }
  if (absl::Status status = CheckPending(*record); !status.ok()) return status;
  const bool tolerant = entry.seq() <= state.redo_until_seq();
  if (absl::Status status = CheckVersions(*record, tolerant); !status.ok()) return status;

  Change change{core_.db().NewBatch(), {}, presto};
  if (absl::Status status = Perform(*record, *payload, tolerant, change); !status.ok()) {
    return status;
  }
  storage::v1::ReplicaRow& next = core_.mutable_state();
  next.set_cursor(entry.seq());
  next.set_chain(entry.chain());
  if (entry.seq() >= next.redo_until_seq()) next.set_redo_until_seq(0);
  if (absl::Status status = core_.CommitApplied(std::move(change.batch)); !status.ok()) {
    return status;
  }
  if (presto != nullptr) presto->Invalidate(std::move(change.stale));
  return absl::OkStatus();
}

absl::Status Applier::Make(Record op, const std::string& payload,
                           const std::function<void(NodeDb::Batch&)>& rider, Presto* presto) {
  core_.update_lock().AssertHeld();
  if (absl::Status failed = core_.failure(); !failed.ok()) return core_.Fail(failed);
  Record record = core_.NewRecord();
  op.set_version(record.version());
  op.set_epoch(record.epoch());
  *op.mutable_time() = record.time();
  Change change{core_.db().NewBatch(), {}, presto};
  making_ = true;
  absl::Status performed = Perform(op, payload, /*tolerant=*/false, change);
  making_ = false;
  if (!performed.ok()) return performed;
  rider(*change.batch);
  const ObjectId made(op.create().object());
  if (absl::Status status =
          core_.CommitLocal(std::move(op), SealPayload(payload), std::move(change.batch));
      !status.ok()) {
    return status;
  }
  if (presto == nullptr) return absl::OkStatus();
  if (made) presto->Remade(made);
  presto->Invalidate(std::move(change.stale));
  return absl::OkStatus();
}

absl::Status Applier::Confirm(const record::v1::Entry& entry, const Record& record) {
  core_.update_lock().AssertHeld();
  storage::v1::ReplicaRow& state = core_.mutable_state();
  const uint64_t origin_seq = Version(record.version()).counter();
  auto rolled_back = [&](const std::string& what) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the journal has this node's record ", origin_seq, " (", Describe(record), "), and ", what,
        ": the database was restored from an old image; remove it, so that the ",
        "node joins the collection anew"));
  };
  if (origin_seq > state.last_origin_seq()) {
    return rolled_back(absl::StrCat("its database ends at ", state.last_origin_seq()));
  }
  auto batch = core_.db().NewBatch();
  if (origin_seq > state.confirmed_origin_seq()) {
    if (!core_.pending().Has(origin_seq, entry.record())) {
      // It is no longer pending where it waits for replay.
      auto local = core_.db().ReadLocal(origin_seq - 1, 1, 1);
      if (local.empty() || local[0].first != origin_seq ||
          local[0].second.record() != entry.record()) {
        return rolled_back("its local journal has another one of that number");
      }
    }
    batch->DropLocalThrough(origin_seq);
    core_.pending().RemoveThrough(origin_seq);
    state.set_confirmed_origin_seq(origin_seq);
  }
  state.set_cursor(entry.seq());
  state.set_chain(entry.chain());
  if (entry.seq() >= state.redo_until_seq()) state.set_redo_until_seq(0);
  return core_.CommitApplied(std::move(batch));
}

absl::Status Applier::CheckPending(const Record& record) {
  core_.update_lock().AssertHeld();
  const std::vector<uint64_t> met = core_.pending().Meeting(record);
  if (met.empty()) return absl::OkStatus();
  std::string message =
      absl::StrCat("forwarded ", Describe(record), " meets pending local record ", met[0]);
  auto local = core_.db().ReadLocal(met[0] - 1, 1, 1);
  if (!local.empty()) {
    absl::StatusOr<Record> pending = OpenRecord(local[0].second);
    if (pending.ok()) absl::StrAppend(&message, " (", Describe(*pending), ")");
  }
  if (met.size() > 1) absl::StrAppend(&message, " and ", met.size() - 1, " more");
  return absl::AbortedError(message);
}

absl::Status Applier::CheckVersions(const Record& record, bool tolerant) const {
  for (const record::v1::Touch& touch : record.touches()) {
    const uint64_t have = core_.TableVersion(touch);
    if (have == touch.against()) continue;
    if (tolerant && touch.aspect() != record::v1::ASPECT_ENTRY) continue;
    return Diverged(absl::StrCat(
        Describe(record), " was made against version ", touch.against(), " of ",
        record::v1::Aspect_Name(touch.aspect()), " of object ", touch.object(),
        touch.name().empty() ? "" : absl::StrCat(" \"", absl::CHexEscape(touch.name()), "\""),
        ", and the table has ", have));
  }
  return absl::OkStatus();
}

absl::Status Applier::Perform(const Record& record, const std::string& payload, bool tolerant,
                              Change& change) {
  switch (record.op_case()) {
    case Record::kCreate:
      return Create(record, change);
    case Record::kLink:
      return Link(record, change);
    case Record::kRemove:
      return Remove(record, change);
    case Record::kRename:
      return Rename(record, change);
    case Record::kWrite:
    case Record::kTruncate:
    case Record::kAllocate:
      return Data(record, payload, tolerant, change);
    case Record::kSetAttributes:
    case Record::kSetXattr:
    case Record::kRemoveXattr:
      return Attributes(record, tolerant, change);
    case Record::OP_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("record.op: is not set");
}

absl::StatusOr<Applier::Row> Applier::Object(uint64_t id) const {
  std::optional<Row> row = core_.db().Object(ObjectId(id));
  if (!row.has_value()) return Diverged(absl::StrCat("object ", id, " is not in the table"));
  return *std::move(row);
}

absl::StatusOr<Applier::Row> Applier::Directory(uint64_t id) const {
  absl::StatusOr<Row> row = Object(id);
  if (row.ok() && row->kind() != record::v1::OBJECT_KIND_DIRECTORY) {
    return Diverged(absl::StrCat("object ", id, " is no directory"));
  }
  return row;
}

absl::Status Applier::CheckEntry(uint64_t parent, const std::string& name, uint64_t object) const {
  std::optional<storage::v1::EntryRow> entry = core_.db().Entry(ObjectId(parent), name);
  const uint64_t have = entry.has_value() ? entry->object() : 0;
  if (have == object) return absl::OkStatus();
  return Diverged(absl::StrCat("\"", absl::CHexEscape(name), "\" in object ", parent, " is object ",
                               have, ", and the record says ", object));
}

absl::Status Applier::CheckLoop(uint64_t directory, uint64_t new_parent) const {
  core_.update_lock().AssertHeld();
  uint64_t at = new_parent;
  while (at != kRootObject.value()) {
    if (at == directory) {
      const std::string what =
          absl::StrCat("directory ", directory, " would come to lie below itself");
      return core_.pending().empty() ? Diverged(what) : absl::AbortedError(what);
    }
    absl::StatusOr<Row> row = Directory(at);
    if (!row.ok()) return row.status();
    if (row->links().empty()) return Diverged(absl::StrCat("directory ", at, " has no name"));
    at = row->links(0).parent();
  }
  return absl::OkStatus();
}

absl::Status Applier::Create(const Record& record, Change& change) {
  const record::v1::CreateOp& op = record.create();
  absl::StatusOr<Row> parent = Directory(op.parent());
  if (!parent.ok()) return parent.status();
  if (absl::Status status = CheckEntry(op.parent(), op.name(), 0); !status.ok()) return status;
  const ObjectId object(op.object());
  if (core_.db().Object(object).has_value()) {
    return Diverged(absl::StrCat("object ", op.object(), " is there already"));
  }
  absl::StatusOr<Effects::Made> made = effects_.Create(op, *parent);
  if (!made.ok()) return made.status();
  Row row;
  row.set_kind(op.kind());
  row.set_handle_type(made->handle.type);
  row.set_handle(made->handle.bytes);
  row.set_inode(made->inode);
  row.set_data_version(record.version());
  row.set_attributes_version(record.version());
  AddLink(row, ObjectId(op.parent()), op.name());
  change.batch->PutObject(object, row);
  change.batch->PutEntry(ObjectId(op.parent()), op.name(),
                         MakeEntry(op.object(), record.version()));
  StaleName(change.stale, op.parent(), op.name());
  return absl::OkStatus();
}

absl::Status Applier::Link(const Record& record, Change& change) {
  const record::v1::LinkOp& op = record.link();
  absl::StatusOr<Row> parent = Directory(op.parent());
  if (!parent.ok()) return parent.status();
  if (absl::Status status = CheckEntry(op.parent(), op.name(), 0); !status.ok()) return status;
  absl::StatusOr<Row> row = Object(op.object());
  if (!row.ok()) return row.status();
  if (row->kind() == record::v1::OBJECT_KIND_DIRECTORY) {
    return Diverged(absl::StrCat("object ", op.object(), " is a directory"));
  }
  if (absl::Status status = effects_.Link(op, *parent, *row); !status.ok()) return status;
  row->set_attributes_version(record.version());
  AddLink(*row, ObjectId(op.parent()), op.name());
  change.batch->UpdateObject(ObjectId(op.object()), *row);
  change.batch->PutEntry(ObjectId(op.parent()), op.name(),
                         MakeEntry(op.object(), record.version()));
  StaleName(change.stale, op.parent(), op.name());
  StaleAttributes(change.stale, op.object());
  return absl::OkStatus();
}

absl::Status Applier::Remove(const Record& record, Change& change) {
  const record::v1::RemoveOp& op = record.remove();
  absl::StatusOr<Row> parent = Directory(op.parent());
  if (!parent.ok()) return parent.status();
  if (absl::Status status = CheckEntry(op.parent(), op.name(), op.object()); !status.ok()) {
    return status;
  }
  absl::StatusOr<Row> row = Object(op.object());
  if (!row.ok()) return row.status();
  Row after = *row;
  DropLink(after, ObjectId(op.parent()), op.name());
  const ObjectId object(op.object());
  if (op.directory() != (row->kind() == record::v1::OBJECT_KIND_DIRECTORY) ||
      op.last() != after.links().empty() || (op.directory() && core_.db().HasEntries(object))) {
    return Diverged(absl::StrCat(Describe(record), " is not so here"));
  }
  if (op.last() && change.presto != nullptr) change.presto->BeforeRemoval(object);
  if (absl::Status status = effects_.Remove(op, *parent, *row); !status.ok()) return status;
  change.batch->RemoveEntry(ObjectId(op.parent()), op.name());
  if (op.last()) {
    change.batch->RemoveObject(object, after);
  } else {
    change.batch->UpdateObject(object, after);
  }
  StaleName(change.stale, op.parent(), op.name());
  StaleAttributes(change.stale, op.object());
  return absl::OkStatus();
}

absl::Status Applier::Rename(const Record& record, Change& change) {
  const record::v1::RenameOp& op = record.rename();
  const ObjectId from_parent(op.from_parent());
  const ObjectId to_parent(op.to_parent());
  absl::StatusOr<Row> from_row = Directory(op.from_parent());
  if (!from_row.ok()) return from_row.status();
  absl::StatusOr<Row> to_row = Directory(op.to_parent());
  if (!to_row.ok()) return to_row.status();
  absl::Status status = CheckEntry(op.from_parent(), op.from_name(), op.object());
  if (status.ok()) status = CheckEntry(op.to_parent(), op.to_name(), op.replaced());
  if (!status.ok()) return status;
  absl::StatusOr<Row> row = Object(op.object());
  if (!row.ok()) return row.status();
  const bool moves_directory = row->kind() == record::v1::OBJECT_KIND_DIRECTORY;
  if (moves_directory && from_parent != to_parent) {
    if (status = CheckLoop(op.object(), op.to_parent()); !status.ok()) return status;
  }
  const ObjectId replaced(op.replaced());
  Row replaced_row;
  Row replaced_after;
  if (replaced) {
    absl::StatusOr<Row> found = Object(op.replaced());
    if (!found.ok()) return found.status();
    replaced_row = *std::move(found);
    replaced_after = replaced_row;
    const bool directory = replaced_row.kind() == record::v1::OBJECT_KIND_DIRECTORY;
    DropLink(replaced_after, to_parent, op.to_name());
    if (op.exchange()) {
      AddLink(replaced_after, from_parent, op.from_name());
      if (directory && from_parent != to_parent) {
        if (status = CheckLoop(op.replaced(), op.from_parent()); !status.ok()) return status;
      }
    } else if (directory != moves_directory || (directory && core_.db().HasEntries(replaced))) {
      return Diverged(absl::StrCat(Describe(record), " is not so here"));
    }
    if (op.replaced_last() != replaced_after.links().empty()) {
      return Diverged(absl::StrCat(Describe(record), " is not so here"));
    }
    if (op.replaced_last() && change.presto != nullptr) change.presto->BeforeRemoval(replaced);
  }
  if (op.whiteout() != 0 && core_.db().Object(ObjectId(op.whiteout())).has_value()) {
    return Diverged(absl::StrCat("object ", op.whiteout(), " is there already"));
  }
  absl::StatusOr<std::optional<Effects::Made>> whiteout =
      effects_.Rename(op, *from_row, *to_row, *row, replaced ? &replaced_row : nullptr);
  if (!whiteout.ok()) return whiteout.status();

  NodeDb::Batch& batch = *change.batch;
  if (replaced && op.replaced_last()) {
    batch.RemoveObject(replaced, replaced_after);
  } else if (replaced) {
    batch.UpdateObject(replaced, replaced_after);
  }
  DropLink(*row, from_parent, op.from_name());
  AddLink(*row, to_parent, op.to_name());
  batch.UpdateObject(ObjectId(op.object()), *row);
  batch.PutEntry(to_parent, op.to_name(), MakeEntry(op.object(), record.version()));
  if (op.exchange()) {
    batch.PutEntry(from_parent, op.from_name(), MakeEntry(op.replaced(), record.version()));
  } else if (whiteout->has_value()) {
    Row device;
    device.set_kind(record::v1::OBJECT_KIND_CHARACTER_DEVICE);
    device.set_handle_type((*whiteout)->handle.type);
    device.set_handle((*whiteout)->handle.bytes);
    device.set_inode((*whiteout)->inode);
    device.set_data_version(record.version());
    device.set_attributes_version(record.version());
    AddLink(device, from_parent, op.from_name());
    batch.PutObject(ObjectId(op.whiteout()), device);
    batch.PutEntry(from_parent, op.from_name(), MakeEntry(op.whiteout(), record.version()));
  } else {
    batch.RemoveEntry(from_parent, op.from_name());
  }
  StaleName(change.stale, op.from_parent(), op.from_name());
  StaleName(change.stale, op.to_parent(), op.to_name());
  StaleAttributes(change.stale, op.object());
  if (replaced) StaleAttributes(change.stale, op.replaced());
  return absl::OkStatus();
}

absl::Status Applier::Data(const Record& record, const std::string& payload, bool tolerant,
                           Change& change) {
  const uint64_t id = DataObject(record);
  std::optional<Row> row = core_.db().Object(ObjectId(id));
  // Removed between the snapshot's view and this record; its removal is in the tail too.
  if (!row.has_value() && tolerant) return absl::OkStatus();
  if (!row.has_value() || row->kind() != record::v1::OBJECT_KIND_FILE) {
    return Diverged(absl::StrCat("object ", id, " is no file here"));
  }
  if (record.has_write()) {
    absl::StatusOr<uint64_t> size = effects_.Write(record.write(), *row, payload);
    if (!size.ok()) return size.status();
    for (const record::v1::Extent& extent : record.write().extents()) {
      change.stale.objects.push_back({ObjectId(id), static_cast<int64_t>(extent.offset()),
                                      static_cast<int64_t>(extent.length())});
    }
  } else if (record.has_truncate()) {
    absl::StatusOr<uint64_t> size = effects_.Truncate(record.truncate(), *row);
    if (!size.ok()) return size.status();
    const uint64_t from = std::min(*size, record.truncate().size());
    change.stale.objects.push_back({ObjectId(id), static_cast<int64_t>(from), -1});
  } else {
    absl::StatusOr<uint64_t> size = effects_.Allocate(record.allocate(), *row);
    if (!size.ok()) return size.status();
    const uint64_t from = std::min(*size, record.allocate().extent().offset());
    change.stale.objects.push_back({ObjectId(id), static_cast<int64_t>(from), -1});
  }
  row->set_data_version(record.version());
  change.batch->UpdateObject(ObjectId(id), *row);
  return absl::OkStatus();
}

absl::Status Applier::Attributes(const Record& record, bool tolerant, Change& change) {
  const uint64_t id = record.has_set_attributes() ? record.set_attributes().object()
                      : record.has_set_xattr()    ? record.set_xattr().object()
                                                  : record.remove_xattr().object();
  std::optional<Row> row = core_.db().Object(ObjectId(id));
  if (!row.has_value() && tolerant) return absl::OkStatus();
  if (!row.has_value()) return Diverged(absl::StrCat("object ", id, " is not in the table"));
  const absl::Status status =
      record.has_set_attributes() ? effects_.SetAttributes(record.set_attributes(), *row)
      : record.has_set_xattr()    ? effects_.SetXattr(record.set_xattr(), *row)
                                  : effects_.RemoveXattr(record.remove_xattr(), *row);
  if (!status.ok()) return status;
  row->set_attributes_version(record.version());
  change.batch->UpdateObject(ObjectId(id), *row);
  StaleAttributes(change.stale, id);
  return absl::OkStatus();
}

}  // namespace intermezzo::sidecar
