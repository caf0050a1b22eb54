// OpenRecord: what a record must be before anything acts on it. Records come from other nodes, so
// nothing in them is believed: a length, name, id or extent that passes here is safe to use.
#include <google/protobuf/message.h>

#include <limits>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/common/types/names.h"
#include "services/common/types/view.h"

namespace intermezzo {
namespace {

using record::v1::Attributes;
using record::v1::Extent;
using record::v1::Record;
using record::v1::Timespec;
using record::v1::Touch;

constexpr uint64_t kMaxFileBytes = std::numeric_limits<int64_t>::max();
constexpr size_t kDigestBytes = 16;
constexpr size_t kMaxSymlinkBytes = 4095;
constexpr size_t kMaxXattrNameBytes = 255;
constexpr size_t kMaxXattrValueBytes = 65536;
// The FALLOC_FL_* of linux/falloc.h but NO_HIDE_STALE (0x04): KEEP_SIZE, PUNCH_HOLE,
// COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE.
constexpr uint32_t kAllocateModes = 0x01 | 0x02 | 0x08 | 0x10 | 0x20 | 0x40;

#define RETURN_IF_ERROR(expression) \
  if (absl::Status status_ = (expression); !status_.ok()) return status_

template <typename... T>
absl::Status Bad(const T&... text) {
  return absl::InvalidArgumentError(absl::StrCat("record: ", text...));
}

// An id or version: both parts non-zero.
bool IsStamp(uint64_t value) { return (value >> kCounterBits) != 0 && (value & kMaxCounter) != 0; }

absl::Status CheckObject(const char* field, uint64_t object) {
  if (object == kRootObject.value() || IsStamp(object)) return absl::OkStatus();
  return Bad(field, ": ", object, " is not an object id");
}

// An object that is made, moved or removed: not the root.
absl::Status CheckMovable(const char* field, uint64_t object) {
  if (IsStamp(object)) return absl::OkStatus();
  return Bad(field, ": ", object, " is not the id of an object below the root");
}

absl::Status CheckName(const char* field, const std::string& name) {
  const absl::Status status = EntryNameRule::Check(name);
  if (status.ok()) return status;
  return Bad(field, ": ", status.message());
}

absl::Status CheckTime(const char* field, bool set, const Timespec& time) {
  if (!set || time.nanos() <= 999'999'999) return absl::OkStatus();
  return Bad(field, ".nanos: ", time.nanos(), " is over 999999999");
}

absl::Status CheckAttributes(const char* field, bool set, const Attributes& attributes) {
  if (!set) return Bad(field, ": is not set");
  if (attributes.mode() > 07777) {
    return Bad(field, ".mode: ", attributes.mode(), " has bits outside 07777");
  }
  return CheckTime(field, attributes.has_mtime(), attributes.mtime());
}

absl::Status CheckXattrName(const char* field, const std::string& name) {
  if (!name.empty() && name.size() <= kMaxXattrNameBytes && name.find('\0') == name.npos) {
    return absl::OkStatus();
  }
  return Bad(field, ": an attribute's name has 1 to 255 bytes without NUL");
}

absl::Status CheckXattr(const char* field, const record::v1::Xattr& xattr) {
  RETURN_IF_ERROR(CheckXattrName(field, xattr.name()));
  if (xattr.value().size() <= kMaxXattrValueBytes) return absl::OkStatus();
  return Bad(field, ": a value of ", xattr.value().size(), " bytes is over 65536");
}

absl::Status CheckFileSize(const char* field, uint64_t size) {
  if (size <= kMaxFileBytes) return absl::OkStatus();
  return Bad(field, ": ", size, " is over 2^63 - 1");
}

absl::Status CheckExtent(const char* field, const Extent& extent) {
  if (extent.length() == 0) return Bad(field, ".length: is 0");
  if (extent.offset() > kMaxFileBytes || extent.length() > kMaxFileBytes - extent.offset()) {
    return Bad(field, ": ", extent.length(), " bytes at ", extent.offset(), " end over 2^63 - 1");
  }
  return absl::OkStatus();
}

absl::Status CheckCreate(const record::v1::CreateOp& op) {
  RETURN_IF_ERROR(CheckObject("create.parent", op.parent()));
  RETURN_IF_ERROR(CheckName("create.name", op.name()));
  RETURN_IF_ERROR(CheckMovable("create.object", op.object()));
  if (op.object() == op.parent()) return Bad("create.object: is its own parent");
  if (!record::v1::ObjectKind_IsValid(op.kind()) ||
      op.kind() == record::v1::OBJECT_KIND_UNSPECIFIED) {
    return Bad("create.kind: ", op.kind(), " is not a kind of object");
  }
  RETURN_IF_ERROR(CheckAttributes("create.attributes", op.has_attributes(), op.attributes()));
  RETURN_IF_ERROR(CheckTime("create.parent_mtime", op.has_parent_mtime(), op.parent_mtime()));
  const bool device = op.kind() == record::v1::OBJECT_KIND_CHARACTER_DEVICE ||
                      op.kind() == record::v1::OBJECT_KIND_BLOCK_DEVICE;
  if (!device && op.rdev() != 0) return Bad("create.rdev: is set, and the object is no device");
  const std::string& target = op.symlink_target();
  if (op.kind() == record::v1::OBJECT_KIND_SYMLINK) {
    if (target.empty() || target.size() > kMaxSymlinkBytes || target.find('\0') != target.npos) {
      return Bad("create.symlink_target: has ", target.size(),
                 " bytes: 1 to 4095 without NUL are allowed");
    }
  } else if (!target.empty()) {
    return Bad("create.symlink_target: is set, and the object is no symbolic link");
  }
  std::set<std::string_view> names;
  for (const record::v1::Xattr& xattr : op.xattrs()) {
    RETURN_IF_ERROR(CheckXattr("create.xattrs", xattr));
    if (!names.insert(xattr.name()).second) return Bad("create.xattrs: a name is there twice");
  }
  return absl::OkStatus();
}

absl::Status CheckLink(const record::v1::LinkOp& op) {
  RETURN_IF_ERROR(CheckMovable("link.object", op.object()));
  RETURN_IF_ERROR(CheckObject("link.parent", op.parent()));
  RETURN_IF_ERROR(CheckName("link.name", op.name()));
  if (op.object() == op.parent()) return Bad("link.object: is its own parent");
  return CheckTime("link.parent_mtime", op.has_parent_mtime(), op.parent_mtime());
}

absl::Status CheckRemove(const record::v1::RemoveOp& op) {
  RETURN_IF_ERROR(CheckObject("remove.parent", op.parent()));
  RETURN_IF_ERROR(CheckName("remove.name", op.name()));
  RETURN_IF_ERROR(CheckMovable("remove.object", op.object()));
  if (op.object() == op.parent()) return Bad("remove.object: is its own parent");
  if (op.directory() && !op.last()) return Bad("remove.last: a directory has one name only");
  return CheckTime("remove.parent_mtime", op.has_parent_mtime(), op.parent_mtime());
}

absl::Status CheckRename(const record::v1::RenameOp& op) {
  RETURN_IF_ERROR(CheckMovable("rename.object", op.object()));
  RETURN_IF_ERROR(CheckObject("rename.from_parent", op.from_parent()));
  RETURN_IF_ERROR(CheckName("rename.from_name", op.from_name()));
  RETURN_IF_ERROR(CheckObject("rename.to_parent", op.to_parent()));
  RETURN_IF_ERROR(CheckName("rename.to_name", op.to_name()));
  if (op.object() == op.from_parent() || op.object() == op.to_parent()) {
    return Bad("rename.object: is its own parent");
  }
  if (op.from_parent() == op.to_parent() && op.from_name() == op.to_name()) {
    return Bad("rename.to_name: is the name it has");
  }
  if (op.replaced() != 0) {
    RETURN_IF_ERROR(CheckMovable("rename.replaced", op.replaced()));
    if (op.replaced() == op.object()) return Bad("rename.replaced: is the object that moves");
  } else if (op.replaced_last()) {
    return Bad("rename.replaced_last: is set, and nothing is replaced");
  }
  if (op.exchange()) {
    if (op.replaced() == 0) return Bad("rename.replaced: is not set, and names are exchanged");
    if (op.replaced_last()) return Bad("rename.replaced_last: is set, and names are exchanged");
    if (op.whiteout() != 0) return Bad("rename.whiteout: is set, and names are exchanged");
  }
  if (op.whiteout() != 0) {
    RETURN_IF_ERROR(CheckMovable("rename.whiteout", op.whiteout()));
    if (op.whiteout() == op.object() || op.whiteout() == op.replaced() ||
        op.whiteout() == op.from_parent() || op.whiteout() == op.to_parent()) {
      return Bad("rename.whiteout: is not a new object");
    }
  }
  RETURN_IF_ERROR(
      CheckTime("rename.from_parent_mtime", op.has_from_parent_mtime(), op.from_parent_mtime()));
  RETURN_IF_ERROR(
      CheckTime("rename.to_parent_mtime", op.has_to_parent_mtime(), op.to_parent_mtime()));
  if (!op.exchange() || op.from_parent() == op.to_parent()) {
    if (op.has_object_mtime()) return Bad("rename.object_mtime: is set, and no parents change");
    if (op.has_replaced_mtime()) return Bad("rename.replaced_mtime: is set, and no parents change");
  }
  RETURN_IF_ERROR(CheckTime("rename.object_mtime", op.has_object_mtime(), op.object_mtime()));
  return CheckTime("rename.replaced_mtime", op.has_replaced_mtime(), op.replaced_mtime());
}

absl::Status CheckWrite(const record::v1::WriteOp& op, const Record& record) {
  RETURN_IF_ERROR(CheckMovable("write.object", op.object()));
  if (op.extents().empty()) return Bad("write.extents: there is none");
  uint64_t end = 0;  // of the extents so far; each is checked to end at 2^63 - 1 or before
  uint64_t sum = 0;
  for (const Extent& extent : op.extents()) {
    RETURN_IF_ERROR(CheckExtent("write.extents", extent));
    if (sum != 0 && extent.offset() < end) {
      return Bad("write.extents: the one at ", extent.offset(), " begins before ", end,
                 ", the end of the one before it");
    }
    end = extent.offset() + extent.length();
    sum += extent.length();
  }
  if (sum != record.payload().length()) {
    return Bad("write.extents: hold ", sum, " bytes, payload.length is ",
               record.payload().length());
  }
  RETURN_IF_ERROR(CheckFileSize("write.size", op.size()));
  if (op.size() < end) return Bad("write.size: ", op.size(), " is before the end ", end);
  return CheckTime("write.mtime", op.has_mtime(), op.mtime());
}

absl::Status CheckAllocate(const record::v1::AllocateOp& op) {
  RETURN_IF_ERROR(CheckMovable("allocate.object", op.object()));
  if ((op.mode() & ~kAllocateModes) != 0) {
    return Bad("allocate.mode: ", op.mode(), " has unknown flags");
  }
  if (!op.has_extent()) return Bad("allocate.extent: is not set");
  RETURN_IF_ERROR(CheckExtent("allocate.extent", op.extent()));
  RETURN_IF_ERROR(CheckFileSize("allocate.size", op.size()));
  return CheckTime("allocate.mtime", op.has_mtime(), op.mtime());
}

absl::Status CheckOp(const Record& record) {
  switch (record.op_case()) {
    case Record::kCreate:
      return CheckCreate(record.create());
    case Record::kLink:
      return CheckLink(record.link());
    case Record::kRemove:
      return CheckRemove(record.remove());
    case Record::kRename:
      return CheckRename(record.rename());
    case Record::kWrite:
      return CheckWrite(record.write(), record);
    case Record::kTruncate: {
      const record::v1::TruncateOp& op = record.truncate();
      RETURN_IF_ERROR(CheckMovable("truncate.object", op.object()));
      RETURN_IF_ERROR(CheckFileSize("truncate.size", op.size()));
      return CheckTime("truncate.mtime", op.has_mtime(), op.mtime());
    }
    case Record::kAllocate:
      return CheckAllocate(record.allocate());
    case Record::kSetAttributes: {
      const record::v1::SetAttributesOp& op = record.set_attributes();
      RETURN_IF_ERROR(CheckObject("set_attributes.object", op.object()));
      RETURN_IF_ERROR(
          CheckAttributes("set_attributes.attributes", op.has_attributes(), op.attributes()));
      return CheckTime("set_attributes.atime", op.has_atime(), op.atime());
    }
    case Record::kSetXattr: {
      const record::v1::SetXattrOp& op = record.set_xattr();
      RETURN_IF_ERROR(CheckObject("set_xattr.object", op.object()));
      RETURN_IF_ERROR(CheckXattr("set_xattr.xattr", op.xattr()));
      return CheckAttributes("set_xattr.attributes", op.has_attributes(), op.attributes());
    }
    case Record::kRemoveXattr: {
      const record::v1::RemoveXattrOp& op = record.remove_xattr();
      RETURN_IF_ERROR(CheckObject("remove_xattr.object", op.object()));
      RETURN_IF_ERROR(CheckXattrName("remove_xattr.name", op.name()));
      return CheckAttributes("remove_xattr.attributes", op.has_attributes(), op.attributes());
    }
    case Record::OP_NOT_SET:
      break;
  }
  return Bad("op: is not set or not known");
}

absl::Status CheckTouches(const Record& record) {
  if (record.touches_size() > kMaxRecordTouches) {
    return Bad("touches: ", record.touches_size(), " are over ", kMaxRecordTouches);
  }
  for (const Touch& touch : record.touches()) {
    if (touch.aspect() == record::v1::ASPECT_ENTRY) {
      RETURN_IF_ERROR(CheckName("touches.name", touch.name()));
    }
  }
  const std::vector<Touch> required = RequiredTouches(record);
  if (static_cast<size_t>(record.touches_size()) != required.size()) {
    return Bad("touches: there are ", record.touches_size(), ", the op has ", required.size());
  }
  for (int i = 0; i < record.touches_size(); ++i) {
    const Touch& stated = record.touches(i);
    if (stated.object() != required[i].object() || stated.aspect() != required[i].aspect() ||
        stated.name() != required[i].name()) {
      return Bad("touches[", i, "]: is not what the op touches");
    }
    // An object that this record makes had no version.
    const bool made = stated.aspect() != record::v1::ASPECT_ENTRY &&
                      ((record.has_create() && stated.object() == record.create().object()) ||
                       (record.has_rename() && stated.object() == record.rename().whiteout()));
    if (made && stated.against() != 0) {
      return Bad("touches[", i, "].against: is ", stated.against(), " for a new object");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPayload(const record::v1::Entry& entry, const Record& record) {
  if (!record::v1::PayloadCodec_IsValid(entry.codec())) {
    return absl::InvalidArgumentError(absl::StrCat("entry.codec: ", entry.codec(), " is unknown"));
  }
  if (record.has_payload() != record.has_write()) {
    return Bad(record.has_write() ? "payload: is not set" : "payload: only a write has one");
  }
  if (!record.has_payload()) {
    if (entry.payload().empty() && entry.payload_length() == 0 &&
        entry.codec() == record::v1::PAYLOAD_CODEC_UNSPECIFIED) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("entry.payload: is there, and the record has none");
  }
  if (record.payload().length() == 0 || record.payload().length() > kMaxPayloadBytes) {
    return Bad("payload.length: ", record.payload().length(), " is not in 1 to ", kMaxPayloadBytes);
  }
  if (record.payload().xxh3().size() != kDigestBytes) {
    return Bad("payload.xxh3: has ", record.payload().xxh3().size(), " bytes, not ", kDigestBytes);
  }
  if (entry.payload_length() == 0 || entry.payload_length() > kMaxPayloadBytes) {
    return absl::InvalidArgumentError(absl::StrCat("entry.payload_length: ", entry.payload_length(),
                                                   " is not in 1 to ", kMaxPayloadBytes));
  }
  if (!entry.payload().empty() && entry.payload().size() != entry.payload_length()) {
    return absl::InvalidArgumentError(absl::StrCat("entry.payload: has ", entry.payload().size(),
                                                   " bytes, payload_length says ",
                                                   entry.payload_length()));
  }
  return absl::OkStatus();
}

// Fields that this version does not know could mean anything: the record is not understood.
bool HasUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  if (!reflection.GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      if (HasUnknownFields(reflection.GetMessage(message, field))) return true;
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      if (HasUnknownFields(reflection.GetRepeatedMessage(message, field, i))) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<Record> OpenRecord(const record::v1::Entry& entry) {
  if (entry.record().empty() || entry.record().size() > kMaxRecordBytes) {
    return absl::InvalidArgumentError(absl::StrCat("entry.record: has ", entry.record().size(),
                                                   " bytes: 1 to ", kMaxRecordBytes));
  }
  if (entry.payload().size() > kMaxPayloadBytes) {
    return absl::InvalidArgumentError(absl::StrCat("entry.payload: has ", entry.payload().size(),
                                                   " bytes, over ", kMaxPayloadBytes));
  }
  if (!entry.chain().empty() && entry.chain().size() != kDigestBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("entry.chain: has ", entry.chain().size(), " bytes, not ", kDigestBytes));
  }
  Record record;
  if (!record.ParseFromString(entry.record())) {
    return absl::InvalidArgumentError("entry.record: is not a serialized record");
  }
  if (HasUnknownFields(record)) return Bad("has fields of a later version");
  if (!IsStamp(record.version())) {
    return Bad("version: ", record.version(), " has no ordinal or no counter");
  }
  RETURN_IF_ERROR(CheckTime("time", record.has_time(), record.time()));
  RETURN_IF_ERROR(CheckPayload(entry, record));
  RETURN_IF_ERROR(CheckOp(record));
  RETURN_IF_ERROR(CheckTouches(record));
  return record;
}

}  // namespace intermezzo
