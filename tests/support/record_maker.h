// Makes the records of one imagined node, with the versions that its own tree has.
//
// A tiny model: it remembers the version of every aspect that it made, so that a chain of calls is
// what a correct node would journal. Tests that want a wrong record change it afterwards.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "intermezzo/record/v1/record.pb.h"
#include "services/common/record/codec.h"
#include "services/common/types/numbers.h"

namespace intermezzo::tests {

class RecordMaker {
 public:
  explicit RecordMaker(uint64_t ordinal) : ordinal_(ordinal) {
    versions_[{kRootObject.value(), record::v1::ASPECT_DATA, ""}] = kInitialVersion.value();
    versions_[{kRootObject.value(), record::v1::ASPECT_ATTRIBUTES, ""}] = kInitialVersion.value();
  }

  uint64_t NewObject() { return ObjectId(ordinal_, next_object_++).value(); }
  uint64_t last_origin_seq() const { return next_seq_ - 1; }
  void SkipOriginSeq() { ++next_seq_; }
  // Takes over what another node has made, as a node does that applied its records.
  void Learn(const RecordMaker& other) { versions_ = other.versions_; }

  record::v1::Record Create(uint64_t parent, const std::string& name, uint64_t object,
                            record::v1::ObjectKind kind = record::v1::OBJECT_KIND_FILE) {
    record::v1::Record record;
    auto& op = *record.mutable_create();
    op.set_parent(parent);
    op.set_name(name);
    op.set_object(object);
    op.set_kind(kind);
    op.mutable_attributes()->set_mode(0644);
    if (kind == record::v1::OBJECT_KIND_SYMLINK) op.set_symlink_target("target");
    return Stamp(std::move(record));
  }
  record::v1::Record Mkdir(uint64_t parent, const std::string& name, uint64_t object) {
    return Create(parent, name, object, record::v1::OBJECT_KIND_DIRECTORY);
  }
  record::v1::Record Link(uint64_t object, uint64_t parent, const std::string& name) {
    record::v1::Record record;
    auto& op = *record.mutable_link();
    op.set_object(object);
    op.set_parent(parent);
    op.set_name(name);
    return Stamp(std::move(record));
  }
  record::v1::Record Remove(uint64_t parent, const std::string& name, uint64_t object,
                            bool directory = false, bool last = true) {
    record::v1::Record record;
    auto& op = *record.mutable_remove();
    op.set_parent(parent);
    op.set_name(name);
    op.set_object(object);
    op.set_directory(directory);
    op.set_last(last);
    return Stamp(std::move(record));
  }
  struct RenameFlags {
    uint64_t replaced = 0;
    bool replaced_last = false;
    bool exchange = false;
    uint64_t whiteout = 0;
  };
  record::v1::Record Rename(uint64_t object, uint64_t from_parent, const std::string& from_name,
                            uint64_t to_parent, const std::string& to_name, RenameFlags flags) {
    record::v1::Record record;
    auto& op = *record.mutable_rename();
    op.set_object(object);
    op.set_from_parent(from_parent);
    op.set_from_name(from_name);
    op.set_to_parent(to_parent);
    op.set_to_name(to_name);
    op.set_replaced(flags.replaced);
    op.set_replaced_last(flags.replaced_last);
    op.set_exchange(flags.exchange);
    op.set_whiteout(flags.whiteout);
    return Stamp(std::move(record));
  }
  record::v1::Record Rename(uint64_t object, uint64_t from_parent, const std::string& from_name,
                            uint64_t to_parent, const std::string& to_name) {
    return Rename(object, from_parent, from_name, to_parent, to_name, RenameFlags());
  }
  // One extent at `offset`; the payload goes beside it (Seal).
  record::v1::Record Write(uint64_t object, uint64_t offset, uint64_t length) {
    record::v1::Record record;
    auto& op = *record.mutable_write();
    op.set_object(object);
    auto& extent = *op.add_extents();
    extent.set_offset(offset);
    extent.set_length(length);
    op.set_size(offset + length);
    return Stamp(std::move(record));
  }
  record::v1::Record Truncate(uint64_t object, uint64_t size) {
    record::v1::Record record;
    record.mutable_truncate()->set_object(object);
    record.mutable_truncate()->set_size(size);
    return Stamp(std::move(record));
  }
  record::v1::Record Chmod(uint64_t object, uint32_t mode) {
    record::v1::Record record;
    record.mutable_set_attributes()->set_object(object);
    record.mutable_set_attributes()->mutable_attributes()->set_mode(mode);
    return Stamp(std::move(record));
  }

  static record::v1::Entry Seal(const record::v1::Record& record, std::string_view payload = {}) {
    return SealEntry(record, payload);
  }

 private:
  using Key = std::tuple<uint64_t, int, std::string>;

  // Gives it its version, states its touches, and remembers what it made.
  record::v1::Record Stamp(record::v1::Record record) {
    record.set_version(Version(ordinal_, next_seq_++).value());
    const auto touches = RequiredTouches(record);
    for (const auto& required : touches) {
      auto& touch = *record.add_touches();
      touch = required;
      touch.set_against(versions_[{touch.object(), touch.aspect(), touch.name()}]);
    }
    for (const auto& touch : touches) {
      versions_[{touch.object(), touch.aspect(), touch.name()}] =
          Goes(record, touch) ? 0 : record.version();
    }
    return record;
  }

  // Whether the touched aspect is absent after the record.
  static bool Goes(const record::v1::Record& record, const record::v1::Touch& touch) {
    if (record.has_remove()) return true;
    if (!record.has_rename()) return false;
    const auto& op = record.rename();
    if (touch.aspect() != record::v1::ASPECT_ENTRY) return touch.object() == op.replaced();
    return touch.object() == op.from_parent() && touch.name() == op.from_name() && !op.exchange() &&
           op.whiteout() == 0;
  }

  const Ordinal ordinal_;
  uint64_t next_seq_ = 1;
  uint64_t next_object_ = 1;
  std::map<Key, uint64_t> versions_;
};

}  // namespace intermezzo::tests
