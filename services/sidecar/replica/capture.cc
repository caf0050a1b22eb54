// presto's side of the replica: each update of the lower tree becomes one record, with the rows
// that it changes, in one batch.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/status/errno.h"
#include "services/sidecar/replica/links.h"
#include "services/sidecar/replica/replica_impl.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::Record;
using storage::v1::EntryRow;
using storage::v1::ObjectRow;

absl::StatusOr<record::v1::Timespec> MtimeOf(int dir_fd, const std::string& name = "") {
  struct stat st;
  if (fstatat(dir_fd, name.c_str(), &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    return StatusFromErrno(errno, "fstat of a directory");
  }
  return ToProto(st.st_mtim);
}

absl::Status UnknownName(ObjectId parent, const std::string& name) {
  return absl::DataLossError(absl::StrCat(
      "\"", absl::CHexEscape(name), "\" in object ", parent.value(),
      " is not in the node's database: the lower directory was changed behind InterMezzo"));
}

EntryRow MakeEntry(uint64_t object, uint64_t version) {
  EntryRow row;
  row.set_object(object);
  row.set_version(version);
  return row;
}

}  // namespace

absl::StatusOr<ReplicaImpl::Found> ReplicaImpl::Look(int dir_fd, const std::string& name) {
  Found found;
  if (fstatat(dir_fd, name.c_str(), &found.st, AT_SYMLINK_NOFOLLOW) != 0) {
    return StatusFromErrno(errno, "fstatat of a new name");
  }
  absl::StatusOr<LowerHandle> handle = lower().HandleAt(dir_fd, name);
  if (!handle.ok()) return handle.status();
  found.handle = *std::move(handle);
  return found;
}

absl::Status ReplicaImpl::Displace(ObjectId parent, int parent_fd, const std::string& name) {
  log::Warning("a name vanished from the lower directory; its removal is journaled now",
               {{"collection", options().collection.str()}, {"name", absl::CHexEscape(name)}});
  return Removed(parent, parent_fd, name);
}

absl::StatusOr<ObjectId> ReplicaImpl::Created(ObjectId parent, int parent_fd,
                                              const std::string& name) {
  core_.update_lock().AssertHeld();
  const ObjectId object = core_.NewObjectId();
  if (absl::Status status = CreatedAs(object, parent, parent_fd, name); !status.ok()) return status;
  return object;
}

absl::Status ReplicaImpl::CreatedAs(ObjectId object, ObjectId parent, int parent_fd,
                                    const std::string& name) {
  core_.update_lock().AssertHeld();
  if (core_.db().Entry(parent, name).has_value()) {
    if (absl::Status status = Displace(parent, parent_fd, name); !status.ok()) return status;
  }
  absl::StatusOr<Found> found = Look(parent_fd, name);
  if (!found.ok()) return core_.Fail(found.status());
  absl::StatusOr<std::vector<record::v1::Xattr>> xattrs = ReadXattrsAt(parent_fd, name);
  if (!xattrs.ok()) return core_.Fail(xattrs.status());
  absl::StatusOr<record::v1::Timespec> parent_mtime = MtimeOf(parent_fd);
  if (!parent_mtime.ok()) return core_.Fail(parent_mtime.status());

  Record record = core_.NewRecord();
  record::v1::CreateOp& op = *record.mutable_create();
  op.set_parent(parent.value());
  op.set_name(name);
  op.set_object(object.value());
  op.set_kind(KindOf(found->st.st_mode));
  *op.mutable_attributes() = AttributesOf(found->st);
  if (S_ISCHR(found->st.st_mode) || S_ISBLK(found->st.st_mode)) {
    op.set_rdev(EncodeDevice(found->st.st_rdev));
  }
  if (S_ISLNK(found->st.st_mode)) {
    char target[PATH_MAX];
    const ssize_t length = readlinkat(parent_fd, name.c_str(), target, sizeof(target));
    if (length < 0) return core_.Fail(StatusFromErrno(errno, "readlinkat"));
    op.set_symlink_target(target, static_cast<size_t>(length));
  }
  for (record::v1::Xattr& xattr : *xattrs) *op.add_xattrs() = std::move(xattr);
  *op.mutable_parent_mtime() = *std::move(parent_mtime);

  ObjectRow row;
  row.set_kind(op.kind());
  row.set_handle_type(found->handle.type);
  row.set_handle(found->handle.bytes);
  row.set_inode(found->st.st_ino);
  row.set_data_version(record.version());
  row.set_attributes_version(record.version());
  AddLink(row, parent, name);
  auto batch = core_.db().NewBatch();
  batch->PutObject(object, row);
  batch->PutEntry(parent, name, MakeEntry(object.value(), record.version()));
  return core_.CommitLocal(std::move(record), {}, std::move(batch));
}

absl::Status ReplicaImpl::Linked(ObjectId object, ObjectId parent, int parent_fd,
                                 const std::string& name) {
  core_.update_lock().AssertHeld();
  if (core_.db().Entry(parent, name).has_value()) {
    if (absl::Status status = Displace(parent, parent_fd, name); !status.ok()) return status;
  }
  std::optional<ObjectRow> row = core_.db().Object(object);
  if (!row.has_value()) return core_.Fail(UnknownName(parent, name));
  absl::StatusOr<record::v1::Timespec> parent_mtime = MtimeOf(parent_fd);
  if (!parent_mtime.ok()) return core_.Fail(parent_mtime.status());

  Record record = core_.NewRecord();
  record::v1::LinkOp& op = *record.mutable_link();
  op.set_object(object.value());
  op.set_parent(parent.value());
  op.set_name(name);
  *op.mutable_parent_mtime() = *std::move(parent_mtime);
  row->set_attributes_version(record.version());
  AddLink(*row, parent, name);
  auto batch = core_.db().NewBatch();
  batch->UpdateObject(object, *row);
  batch->PutEntry(parent, name, MakeEntry(object.value(), record.version()));
  return core_.CommitLocal(std::move(record), {}, std::move(batch));
}

absl::Status ReplicaImpl::Removed(ObjectId parent, int parent_fd, const std::string& name) {
  core_.update_lock().AssertHeld();
  std::optional<EntryRow> entry = core_.db().Entry(parent, name);
  if (!entry.has_value()) return core_.Fail(UnknownName(parent, name));
  const ObjectId object(entry->object());
  std::optional<ObjectRow> row = core_.db().Object(object);
  if (!row.has_value()) return core_.Fail(UnknownName(parent, name));
  absl::StatusOr<record::v1::Timespec> parent_mtime = MtimeOf(parent_fd);
  if (!parent_mtime.ok()) return core_.Fail(parent_mtime.status());

  Record record = core_.NewRecord();
  record::v1::RemoveOp& op = *record.mutable_remove();
  op.set_parent(parent.value());
  op.set_name(name);
  op.set_object(object.value());
  op.set_directory(row->kind() == record::v1::OBJECT_KIND_DIRECTORY);
  DropLink(*row, parent, name);
  op.set_last(row->links().empty());
  *op.mutable_parent_mtime() = *std::move(parent_mtime);
  auto batch = core_.db().NewBatch();
  batch->RemoveEntry(parent, name);
  const bool last = op.last();
  if (last) {
    batch->RemoveObject(object, *row);
  } else {
    batch->UpdateObject(object, *row);
  }
  absl::Status status = core_.CommitLocal(std::move(record), {}, std::move(batch));
  if (status.ok() && last) cutter_.Forget(object);
  return status;
}

absl::Status ReplicaImpl::Renamed(ObjectId from_parent, int from_fd, const std::string& from_name,
                                  ObjectId to_parent, int to_fd, const std::string& to_name,
                                  unsigned flags) {
  core_.update_lock().AssertHeld();
  const bool exchange = flags & RENAME_EXCHANGE;
  NodeDb& db = core_.db();
  std::optional<EntryRow> from = db.Entry(from_parent, from_name);
  std::optional<EntryRow> to = db.Entry(to_parent, to_name);
  if (!from.has_value()) return core_.Fail(UnknownName(from_parent, from_name));
  if (exchange && !to.has_value()) return core_.Fail(UnknownName(to_parent, to_name));
  // Two names of one object: rename(2) does nothing.
  if (to.has_value() && to->object() == from->object()) return absl::OkStatus();
  const ObjectId object(from->object());
  const ObjectId replaced(to.has_value() ? to->object() : 0);
  std::optional<ObjectRow> row = db.Object(object);
  std::optional<ObjectRow> replaced_row;
  if (replaced) replaced_row = db.Object(replaced);
  if (!row.has_value()) return core_.Fail(UnknownName(from_parent, from_name));
  if (replaced && !replaced_row.has_value()) return core_.Fail(UnknownName(to_parent, to_name));
  absl::StatusOr<record::v1::Timespec> from_mtime = MtimeOf(from_fd);
  if (!from_mtime.ok()) return core_.Fail(from_mtime.status());
  absl::StatusOr<record::v1::Timespec> to_mtime = MtimeOf(to_fd);
  if (!to_mtime.ok()) return core_.Fail(to_mtime.status());

  Record record = core_.NewRecord();
  record::v1::RenameOp& op = *record.mutable_rename();
  op.set_object(object.value());
  op.set_from_parent(from_parent.value());
  op.set_from_name(from_name);
  op.set_to_parent(to_parent.value());
  op.set_to_name(to_name);
  op.set_replaced(replaced.value());
  op.set_exchange(exchange);
  *op.mutable_from_parent_mtime() = *std::move(from_mtime);
  *op.mutable_to_parent_mtime() = *std::move(to_mtime);
  if (exchange && from_parent != to_parent) {
    if (row->kind() == record::v1::OBJECT_KIND_DIRECTORY) {
      absl::StatusOr<record::v1::Timespec> mtime = MtimeOf(to_fd, to_name);
      if (!mtime.ok()) return core_.Fail(mtime.status());
      *op.mutable_object_mtime() = *std::move(mtime);
    }
    if (replaced_row->kind() == record::v1::OBJECT_KIND_DIRECTORY) {
      absl::StatusOr<record::v1::Timespec> mtime = MtimeOf(from_fd, from_name);
      if (!mtime.ok()) return core_.Fail(mtime.status());
      *op.mutable_replaced_mtime() = *std::move(mtime);
    }
  }

  auto batch = db.NewBatch();
  if (replaced) {
    DropLink(*replaced_row, to_parent, to_name);
    if (exchange) AddLink(*replaced_row, from_parent, from_name);
    op.set_replaced_last(replaced_row->links().empty());
    if (op.replaced_last()) {
      batch->RemoveObject(replaced, *replaced_row);
    } else {
      batch->UpdateObject(replaced, *replaced_row);
    }
  }
  DropLink(*row, from_parent, from_name);
  AddLink(*row, to_parent, to_name);
  batch->UpdateObject(object, *row);
  batch->PutEntry(to_parent, to_name, MakeEntry(object.value(), record.version()));
  ObjectId whiteout;
  if (exchange) {
    batch->PutEntry(from_parent, from_name, MakeEntry(replaced.value(), record.version()));
  } else if (flags & RENAME_WHITEOUT) {
    absl::StatusOr<Found> found = Look(from_fd, from_name);
    if (!found.ok()) return core_.Fail(found.status());
    whiteout = core_.NewObjectId();
    op.set_whiteout(whiteout.value());
    ObjectRow whiteout_row;
    whiteout_row.set_kind(record::v1::OBJECT_KIND_CHARACTER_DEVICE);
    whiteout_row.set_handle_type(found->handle.type);
    whiteout_row.set_handle(found->handle.bytes);
    whiteout_row.set_inode(found->st.st_ino);
    whiteout_row.set_data_version(record.version());
    whiteout_row.set_attributes_version(record.version());
    AddLink(whiteout_row, from_parent, from_name);
    batch->PutObject(whiteout, whiteout_row);
    batch->PutEntry(from_parent, from_name, MakeEntry(whiteout.value(), record.version()));
  } else {
    batch->RemoveEntry(from_parent, from_name);
  }
  const bool replaced_last = op.replaced_last();
  if (absl::Status status = core_.CommitLocal(std::move(record), {}, std::move(batch));
      !status.ok()) {
    return status;
  }
  if (replaced_last) cutter_.Forget(replaced);
  if (!whiteout) return absl::OkStatus();
  // The record has no attributes for the device: they follow in one of their own.
  UniqueFd fd(openat(from_fd, from_name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return core_.Fail(StatusFromErrno(errno, "opening a whiteout"));
  return AttributesSet(whiteout, fd.get(), /*atime_set=*/false);
}

absl::StatusOr<std::optional<ObjectRow>> ReplicaImpl::Changing(ObjectId object, int fd,
                                                               struct stat& st) {
  core_.update_lock().AssertHeld();
  std::optional<ObjectRow> row = core_.db().Object(object);
  if (row.has_value() && fstat(fd, &st) != 0) {
    return core_.Fail(StatusFromErrno(errno, "fstat of a changed object"));
  }
  return row;
}

absl::Status ReplicaImpl::CommitChange(ObjectId object, Record record, ObjectRow row,
                                       record::v1::Aspect aspect) {
  core_.update_lock().AssertHeld();
  if (aspect == record::v1::ASPECT_DATA) {
    row.set_data_version(record.version());
  } else {
    row.set_attributes_version(record.version());
  }
  auto batch = core_.db().NewBatch();
  batch->UpdateObject(object, row);
  return core_.CommitLocal(std::move(record), {}, std::move(batch));
}

absl::Status ReplicaImpl::AttributesSet(ObjectId object, int fd, bool atime_set) {
  core_.update_lock().AssertHeld();
  struct stat st;
  absl::StatusOr<std::optional<ObjectRow>> row = Changing(object, fd, st);
  if (!row.ok()) return row.status();
  if (!row->has_value()) return absl::OkStatus();
  Record record = core_.NewRecord();
  record::v1::SetAttributesOp& op = *record.mutable_set_attributes();
  op.set_object(object.value());
  *op.mutable_attributes() = AttributesOf(st);
  if (atime_set) *op.mutable_atime() = ToProto(st.st_atim);
  return CommitChange(object, std::move(record), **std::move(row), record::v1::ASPECT_ATTRIBUTES);
}

absl::Status ReplicaImpl::XattrSet(ObjectId object, int fd, const std::string& name) {
  core_.update_lock().AssertHeld();
  // xfs takes its ACLs under names of its own, too.
  if (const char* acl = AclBehind(name)) return XattrSet(object, fd, acl);
  if (!IsSharedXattr(name)) return absl::OkStatus();
  struct stat st;
  absl::StatusOr<std::optional<ObjectRow>> row = Changing(object, fd, st);
  if (!row.ok()) return row.status();
  if (!row->has_value()) return absl::OkStatus();
  std::string value(64 * 1024, '\0');  // the kernel's limit
  const ssize_t length =
      getxattr(DescriptorPath(fd).c_str(), name.c_str(), value.data(), value.size());
  // An ACL that says no more than the mode is not kept.
  if (length < 0 && (errno == ENODATA || errno == ENOTSUP)) return XattrRemoved(object, fd, name);
  if (length < 0) return core_.Fail(StatusFromErrno(errno, absl::StrCat("getxattr ", name)));
  value.resize(static_cast<size_t>(length));
  Record record = core_.NewRecord();
  record::v1::SetXattrOp& op = *record.mutable_set_xattr();
  op.set_object(object.value());
  op.mutable_xattr()->set_name(name);
  op.mutable_xattr()->set_value(std::move(value));
  *op.mutable_attributes() = AttributesOf(st);
  return CommitChange(object, std::move(record), **std::move(row), record::v1::ASPECT_ATTRIBUTES);
}

absl::Status ReplicaImpl::XattrRemoved(ObjectId object, int fd, const std::string& name) {
  core_.update_lock().AssertHeld();
  if (const char* acl = AclBehind(name)) return XattrSet(object, fd, acl);
  if (!IsSharedXattr(name)) return absl::OkStatus();
  struct stat st;
  absl::StatusOr<std::optional<ObjectRow>> row = Changing(object, fd, st);
  if (!row.ok()) return row.status();
  if (!row->has_value()) return absl::OkStatus();
  Record record = core_.NewRecord();
  record::v1::RemoveXattrOp& op = *record.mutable_remove_xattr();
  op.set_object(object.value());
  op.set_name(name);
  *op.mutable_attributes() = AttributesOf(st);
  return CommitChange(object, std::move(record), **std::move(row), record::v1::ASPECT_ATTRIBUTES);
}

absl::Status ReplicaImpl::Truncated(ObjectId object, int fd, uint64_t size) {
  core_.update_lock().AssertHeld();
  cutter_.ReadAnew(object);
  struct stat st;
  absl::StatusOr<std::optional<ObjectRow>> row = Changing(object, fd, st);
  if (!row.ok()) return row.status();
  if (!row->has_value()) return absl::OkStatus();
  Record record = core_.NewRecord();
  record::v1::TruncateOp& op = *record.mutable_truncate();
  op.set_object(object.value());
  op.set_size(size);
  *op.mutable_mtime() = ToProto(st.st_mtim);
  return CommitChange(object, std::move(record), **std::move(row), record::v1::ASPECT_DATA);
}

absl::Status ReplicaImpl::Allocated(ObjectId object, int fd, int mode, uint64_t offset,
                                    uint64_t length) {
  core_.update_lock().AssertHeld();
  cutter_.ReadAnew(object);
  struct stat st;
  absl::StatusOr<std::optional<ObjectRow>> row = Changing(object, fd, st);
  if (!row.ok()) return row.status();
  if (!row->has_value()) return absl::OkStatus();
  Record record = core_.NewRecord();
  record::v1::AllocateOp& op = *record.mutable_allocate();
  op.set_object(object.value());
  op.set_mode(static_cast<uint32_t>(mode));
  op.mutable_extent()->set_offset(offset);
  op.mutable_extent()->set_length(length);
  op.set_size(static_cast<uint64_t>(st.st_size));
  *op.mutable_mtime() = ToProto(st.st_mtim);
  return CommitChange(object, std::move(record), **std::move(row), record::v1::ASPECT_DATA);
}

}  // namespace intermezzo::sidecar
