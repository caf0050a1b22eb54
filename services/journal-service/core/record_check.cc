#include "services/journal-service/core/record_check.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/journal-service/core/refusal.h"

#define RETURN_IF_ERROR(expression) \
  if (absl::Status status_ = (expression); !status_.ok()) return status_
#define ASSIGN_OR_RETURN(declaration, temporary, expression) \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return temporary.status();            \
  declaration = *std::move(temporary)

namespace intermezzo::journal {
namespace {

using record::v1::Record;
using record::v1::Touch;

// Deeper than any path can be; met only where the table itself is broken.
constexpr int kMaxDepth = 1 << 16;

std::string NameText(const std::string& name) {
  return absl::StrCat("\"", absl::CHexEscape(name), "\"");
}

std::string TouchText(const Touch& touch) {
  switch (touch.aspect()) {
    case record::v1::ASPECT_DATA:
      return absl::StrCat("data of ", FormatStamp(touch.object()));
    case record::v1::ASPECT_ATTRIBUTES:
      return absl::StrCat("attributes of ", FormatStamp(touch.object()));
    default:
      return absl::StrCat("entry ", NameText(touch.name()), " in ", FormatStamp(touch.object()));
  }
}

// One record on its way into the table.
class RecordCheck {
 public:
  RecordCheck(const Record& record, VersionOverlay& table)
      : record_(record), made_(record.version()), table_(table) {}

  absl::Status Run() {
    RETURN_IF_ERROR(CheckTouches());
    switch (record_.op_case()) {
      case Record::kCreate:
        return Create(record_.create());
      case Record::kLink:
        return Link(record_.link());
      case Record::kRemove:
        return Remove(record_.remove());
      case Record::kRename:
        return Rename(record_.rename());
      case Record::kWrite:
        return Data(record_.write().object());
      case Record::kTruncate:
        return Data(record_.truncate().object());
      case Record::kAllocate:
        return Data(record_.allocate().object());
      case Record::kSetAttributes:
        return SetAttributes(record_.set_attributes().object());
      case Record::kSetXattr:
        return SetAttributes(record_.set_xattr().object());
      case Record::kRemoveXattr:
        return SetAttributes(record_.remove_xattr().object());
      case Record::OP_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError(absl::StrCat(Text(), " has no operation"));
  }

 private:
  std::string Text() const {
    return absl::StrCat("record ", FormatStamp(record_.version()), " (", Describe(record_), ")");
  }

  absl::Status Conflict(absl::string_view what) const {
    v1::AppendRefusal refusal;
    refusal.set_reason(v1::APPEND_REFUSAL_REASON_STRUCTURE);
    refusal.set_record_version(record_.version());
    return Refuse(refusal, absl::StrCat(Text(), " conflicts: ", what));
  }

  // Every touch states the version there is.
  absl::Status CheckTouches() {
    for (int i = 0; i < record_.touches_size(); ++i) {
      const Touch& touch = record_.touches(i);
      ASSIGN_OR_RETURN(Version actual, current, Current(touch));
      if (actual.value() == touch.against()) continue;
      v1::AppendRefusal refusal;
      refusal.set_reason(v1::APPEND_REFUSAL_REASON_VERSION);
      refusal.set_record_version(record_.version());
      refusal.set_touch_index(i);
      *refusal.mutable_touch() = touch;
      refusal.set_actual_version(actual.value());
      return Refuse(refusal,
                    absl::StrCat(Text(), " conflicts: touch ", i, ", the ", TouchText(touch),
                                 ", was made against version ", FormatStamp(touch.against()),
                                 ", the journal has ", FormatStamp(actual.value())));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Version> Current(const Touch& touch) const {
    if (touch.aspect() == record::v1::ASPECT_ENTRY) {
      ASSIGN_OR_RETURN(EntryState entry, found,
                       table_.Entry(ObjectId(touch.object()), touch.name()));
      return entry.version;
    }
    ASSIGN_OR_RETURN(ObjectState object, found, table_.Object(ObjectId(touch.object())));
    return touch.aspect() == record::v1::ASPECT_DATA ? object.data : object.attributes;
  }

  absl::Status CheckDirectory(uint64_t id) const {
    ASSIGN_OR_RETURN(ObjectState state, found, table_.Object(ObjectId(id)));
    if (!state.exists()) {
      return Conflict(absl::StrCat("directory ", FormatStamp(id), " does not exist"));
    }
    if (state.directory()) return absl::OkStatus();
    return Conflict(absl::StrCat("object ", FormatStamp(id), " is not a directory"));
  }

  absl::StatusOr<ObjectState> Existing(uint64_t id) const {
    ASSIGN_OR_RETURN(ObjectState state, found, table_.Object(ObjectId(id)));
    if (!state.exists()) {
      return Conflict(absl::StrCat("object ", FormatStamp(id), " does not exist"));
    }
    return state;
  }

  // The entry, which must name `object` (0: must not exist).
  absl::Status CheckEntry(uint64_t directory, const std::string& name, uint64_t object) const {
    ASSIGN_OR_RETURN(EntryState entry, found, table_.Entry(ObjectId(directory), name));
    if (entry.object.value() == object) return absl::OkStatus();
    return Conflict(
        absl::StrCat("entry ", NameText(name), " in ", FormatStamp(directory),
                     entry.exists() ? absl::StrCat(" names ", FormatStamp(entry.object.value()))
                                    : std::string(" does not exist"),
                     object != 0 ? absl::StrCat(", not ", FormatStamp(object)) : std::string()));
  }

  absl::Status AddChildren(uint64_t directory, int change) {
    ASSIGN_OR_RETURN(ObjectState state, found, table_.Object(ObjectId(directory)));
    state.children += change;
    table_.Put(ObjectId(directory), state);
    return absl::OkStatus();
  }

  // A new object's row under an entry that the caller makes.
  absl::Status NewObject(uint64_t id, record::v1::ObjectKind kind, uint64_t parent) {
    ASSIGN_OR_RETURN(ObjectState there, found, table_.Object(ObjectId(id)));
    if (there.exists()) {
      return Conflict(absl::StrCat("object ", FormatStamp(id), " exists already"));
    }
    ObjectState state{kind, made_, made_, ObjectId(), 1, 0};
    if (state.directory()) state.parent = ObjectId(parent);
    table_.Put(ObjectId(id), state);
    return absl::OkStatus();
  }

  absl::Status Create(const record::v1::CreateOp& op) {
    RETURN_IF_ERROR(CheckDirectory(op.parent()));
    RETURN_IF_ERROR(CheckEntry(op.parent(), op.name(), 0));
    RETURN_IF_ERROR(NewObject(op.object(), op.kind(), op.parent()));
    table_.Put(ObjectId(op.parent()), op.name(), {made_, ObjectId(op.object())});
    return AddChildren(op.parent(), 1);
  }

  absl::Status Link(const record::v1::LinkOp& op) {
    RETURN_IF_ERROR(CheckDirectory(op.parent()));
    ASSIGN_OR_RETURN(ObjectState object, found_object, Existing(op.object()));
    if (object.directory()) return Conflict("a directory cannot have a second name");
    RETURN_IF_ERROR(CheckEntry(op.parent(), op.name(), 0));
    object.attributes = made_;
    ++object.links;
    table_.Put(ObjectId(op.object()), object);
    table_.Put(ObjectId(op.parent()), op.name(), {made_, ObjectId(op.object())});
    return AddChildren(op.parent(), 1);
  }

  // One name of `id` goes; with the last one the object goes.
  absl::Status DropName(uint64_t id, bool last) {
    ASSIGN_OR_RETURN(ObjectState object, found, Existing(id));
    if (last != (object.links == 1)) {
      return Conflict(absl::StrCat("object ", FormatStamp(id), " has ", object.links,
                                   " names, the record says that ",
                                   last ? "the last one goes" : "others stay"));
    }
    if (object.directory() && object.children != 0) {
      return Conflict(absl::StrCat("directory ", FormatStamp(id), " is not empty (",
                                   object.children, " entries)"));
    }
    if (last) {
      object = ObjectState();
    } else {
      --object.links;
    }
    table_.Put(ObjectId(id), object);
    return absl::OkStatus();
  }

  absl::Status Remove(const record::v1::RemoveOp& op) {
    RETURN_IF_ERROR(CheckEntry(op.parent(), op.name(), op.object()));
    ASSIGN_OR_RETURN(ObjectState object, found, Existing(op.object()));
    if (object.directory() != op.directory()) {
      return Conflict(absl::StrCat("object ", FormatStamp(op.object()), " is ",
                                   object.directory() ? "a" : "not a", " directory"));
    }
    RETURN_IF_ERROR(DropName(op.object(), op.last()));
    table_.Put(ObjectId(op.parent()), op.name(), EntryState());
    return AddChildren(op.parent(), -1);
  }

  // Refuses where `directory` is `object` or lies below it.
  absl::Status CheckNotBelow(uint64_t directory, uint64_t object) const {
    for (int depth = 0; directory != 0; ++depth) {
      if (directory == object) {
        return Conflict(absl::StrCat("directory ", FormatStamp(object), " would go below itself"));
      }
      if (depth == kMaxDepth) return Conflict("the target lies too deep");
      ASSIGN_OR_RETURN(ObjectState state, found, table_.Object(ObjectId(directory)));
      directory = state.parent.value();
    }
    return absl::OkStatus();
  }

  absl::Status Reparent(uint64_t id, uint64_t parent) {
    ASSIGN_OR_RETURN(ObjectState object, found, table_.Object(ObjectId(id)));
    if (!object.directory()) return absl::OkStatus();
    object.parent = ObjectId(parent);
    table_.Put(ObjectId(id), object);
    return absl::OkStatus();
  }

  absl::Status Rename(const record::v1::RenameOp& op) {
    RETURN_IF_ERROR(CheckDirectory(op.from_parent()));
    RETURN_IF_ERROR(CheckDirectory(op.to_parent()));
    RETURN_IF_ERROR(CheckEntry(op.from_parent(), op.from_name(), op.object()));
    RETURN_IF_ERROR(CheckEntry(op.to_parent(), op.to_name(), op.replaced()));
    ASSIGN_OR_RETURN(ObjectState object, found_object, Existing(op.object()));
    if (object.directory()) RETURN_IF_ERROR(CheckNotBelow(op.to_parent(), op.object()));
    if (op.replaced() != 0) {
      ASSIGN_OR_RETURN(ObjectState replaced, found_replaced, Existing(op.replaced()));
      if (op.exchange()) {
        if (replaced.directory()) {
          RETURN_IF_ERROR(CheckNotBelow(op.from_parent(), op.replaced()));
        }
      } else if (replaced.directory() != object.directory()) {
        return Conflict("a directory replaces only a directory, others only what is none");
      } else {
        RETURN_IF_ERROR(DropName(op.replaced(), op.replaced_last()));
      }
    }

    RETURN_IF_ERROR(Reparent(op.object(), op.to_parent()));
    table_.Put(ObjectId(op.to_parent()), op.to_name(), {made_, ObjectId(op.object())});
    EntryState left;
    if (op.exchange()) {
      RETURN_IF_ERROR(Reparent(op.replaced(), op.from_parent()));
      left = {made_, ObjectId(op.replaced())};
    } else if (op.whiteout() != 0) {
      RETURN_IF_ERROR(NewObject(op.whiteout(), record::v1::OBJECT_KIND_CHARACTER_DEVICE, 0));
      left = {made_, ObjectId(op.whiteout())};
    }
    table_.Put(ObjectId(op.from_parent()), op.from_name(), left);
    if (!left.exists()) RETURN_IF_ERROR(AddChildren(op.from_parent(), -1));
    if (op.replaced() == 0) RETURN_IF_ERROR(AddChildren(op.to_parent(), 1));
    return absl::OkStatus();
  }

  absl::Status Data(uint64_t id) {
    ASSIGN_OR_RETURN(ObjectState object, found, Existing(id));
    if (object.kind != record::v1::OBJECT_KIND_FILE) {
      return Conflict(absl::StrCat("object ", FormatStamp(id), " is not a regular file"));
    }
    object.data = made_;
    table_.Put(ObjectId(id), object);
    return absl::OkStatus();
  }

  absl::Status SetAttributes(uint64_t id) {
    ASSIGN_OR_RETURN(ObjectState object, found, Existing(id));
    object.attributes = made_;
    table_.Put(ObjectId(id), object);
    return absl::OkStatus();
  }

  const Record& record_;
  const Version made_;
  VersionOverlay& table_;
};

}  // namespace

absl::Status ApplyRecord(const Record& record, VersionOverlay& table) {
  return RecordCheck(record, table).Run();
}

std::string FormatStamp(uint64_t stamp) {
  return absl::StrCat(stamp >> kCounterBits, ":", stamp & kMaxCounter);
}

}  // namespace intermezzo::journal
