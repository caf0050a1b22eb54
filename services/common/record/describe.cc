#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"

namespace intermezzo {
namespace {

using record::v1::Record;

std::string Id(uint64_t object) {
  const ObjectId id(object);
  if (id == kRootObject) return "root";
  return absl::StrCat(id.ordinal().value(), ":", id.counter());
}

std::string EntryText(uint64_t parent, const std::string& name) {
  return absl::StrCat("\"", absl::CHexEscape(name), "\" in ", Id(parent));
}

const char* KindName(record::v1::ObjectKind kind) {
  switch (kind) {
    case record::v1::OBJECT_KIND_FILE:
      return "file";
    case record::v1::OBJECT_KIND_DIRECTORY:
      return "directory";
    case record::v1::OBJECT_KIND_SYMLINK:
      return "symlink";
    case record::v1::OBJECT_KIND_FIFO:
      return "fifo";
    case record::v1::OBJECT_KIND_SOCKET:
      return "socket";
    case record::v1::OBJECT_KIND_CHARACTER_DEVICE:
      return "character device";
    case record::v1::OBJECT_KIND_BLOCK_DEVICE:
      return "block device";
    default:
      return "object of unknown kind";
  }
}

std::string DescribeWrite(const record::v1::WriteOp& op) {
  uint64_t bytes = 0;
  for (const record::v1::Extent& extent : op.extents()) bytes += extent.length();
  std::string text = absl::StrCat("write ", bytes, " B");
  if (op.extents_size() == 1) absl::StrAppend(&text, " at ", op.extents(0).offset());
  if (op.extents_size() > 1) absl::StrAppend(&text, " in ", op.extents_size(), " extents");
  return absl::StrCat(text, " of ", Id(op.object()));
}

std::string DescribeRename(const record::v1::RenameOp& op) {
  std::string text =
      absl::StrCat(op.exchange() ? "exchange " : "rename ",
                   EntryText(op.from_parent(), op.from_name()), op.exchange() ? " with " : " to ",
                   EntryText(op.to_parent(), op.to_name()), " (", Id(op.object()));
  if (op.replaced() != 0) {
    absl::StrAppend(&text, op.exchange() ? " with " : " over ", Id(op.replaced()));
  }
  if (op.whiteout() != 0) absl::StrAppend(&text, ", whiteout ", Id(op.whiteout()));
  return absl::StrCat(text, ")");
}

}  // namespace

std::string Describe(const Record& record) {
  switch (record.op_case()) {
    case Record::kCreate: {
      const record::v1::CreateOp& op = record.create();
      return absl::StrCat("create ", KindName(op.kind()), " ", EntryText(op.parent(), op.name()),
                          " (", Id(op.object()), ")");
    }
    case Record::kLink:
      return absl::StrCat("link ", EntryText(record.link().parent(), record.link().name()), " (",
                          Id(record.link().object()), ")");
    case Record::kRemove: {
      const record::v1::RemoveOp& op = record.remove();
      return absl::StrCat(op.directory() ? "rmdir " : "unlink ", EntryText(op.parent(), op.name()),
                          " (", Id(op.object()), op.last() ? ", last name)" : ")");
    }
    case Record::kRename:
      return DescribeRename(record.rename());
    case Record::kWrite:
      return DescribeWrite(record.write());
    case Record::kTruncate:
      return absl::StrCat("truncate ", Id(record.truncate().object()), " to ",
                          record.truncate().size(), " B");
    case Record::kAllocate: {
      const record::v1::AllocateOp& op = record.allocate();
      return absl::StrCat("allocate (mode 0x", absl::Hex(op.mode()), ") ", op.extent().length(),
                          " B at ", op.extent().offset(), " of ", Id(op.object()));
    }
    case Record::kSetAttributes:
      return absl::StrCat("set attributes of ", Id(record.set_attributes().object()));
    case Record::kSetXattr:
      return absl::StrCat("set xattr ", absl::CHexEscape(record.set_xattr().xattr().name()), " (",
                          record.set_xattr().xattr().value().size(), " B) of ",
                          Id(record.set_xattr().object()));
    case Record::kRemoveXattr:
      return absl::StrCat("remove xattr ", absl::CHexEscape(record.remove_xattr().name()), " of ",
                          Id(record.remove_xattr().object()));
    case Record::OP_NOT_SET:
      break;
  }
  return "record without an op";
}

}  // namespace intermezzo
