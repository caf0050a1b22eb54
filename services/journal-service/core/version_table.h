// Current versions and shape of a collection's tree: what stated versions are compared with.
//
// A VersionView reads rows; a VersionOverlay keeps changes above a view, so that a batch sees the
// batches before it and a refused batch is forgotten by dropping its overlay. No IO here, single
// thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::journal {

// An object; one that does not exist has kind UNSPECIFIED and versions 0.
struct ObjectState {
  record::v1::ObjectKind kind = record::v1::OBJECT_KIND_UNSPECIFIED;
  Version data;
  Version attributes;
  ObjectId parent;        // directories only: where it hangs; 0 for the root
  uint32_t links = 0;     // number of names
  uint32_t children = 0;  // directories only: number of entries

  bool exists() const { return kind != record::v1::OBJECT_KIND_UNSPECIFIED; }
  bool directory() const { return kind == record::v1::OBJECT_KIND_DIRECTORY; }
  friend bool operator==(const ObjectState&, const ObjectState&) = default;
};

// A directory entry; one that does not exist has version 0.
struct EntryState {
  Version version;
  ObjectId object;

  bool exists() const { return bool(version); }
  friend bool operator==(const EntryState&, const EntryState&) = default;
};

// The root of a fresh, empty collection.
inline ObjectState FreshRoot() {
  return {record::v1::OBJECT_KIND_DIRECTORY, kInitialVersion, kInitialVersion, ObjectId(), 1, 0};
}

class VersionView {
 public:
  virtual ~VersionView() = default;
  // Fails only where the rows cannot be read; an absent row is a state that does not exist.
  virtual absl::StatusOr<ObjectState> Object(ObjectId object) const = 0;
  virtual absl::StatusOr<EntryState> Entry(ObjectId directory, const std::string& name) const = 0;
};

class VersionOverlay final : public VersionView {
 public:
  using EntryKey = std::pair<uint64_t, std::string>;  // directory, name

  // `base` must outlive the overlay.
  explicit VersionOverlay(const VersionView* base) : base_(base) {}

  absl::StatusOr<ObjectState> Object(ObjectId object) const override;
  absl::StatusOr<EntryState> Entry(ObjectId directory, const std::string& name) const override;

  void Put(ObjectId object, const ObjectState& state) { objects_[object.value()] = state; }
  void Put(ObjectId directory, const std::string& name, const EntryState& state) {
    entries_[{directory.value(), name}] = state;
  }

  // Takes over all changes of an overlay whose base is this one.
  void Merge(VersionOverlay&& other);

  // The changes; a state that does not exist means that the row goes.
  const absl::flat_hash_map<uint64_t, ObjectState>& objects() const { return objects_; }
  const absl::flat_hash_map<EntryKey, EntryState>& entries() const { return entries_; }

 private:
  const VersionView* const base_;
  absl::flat_hash_map<uint64_t, ObjectState> objects_;
  absl::flat_hash_map<EntryKey, EntryState> entries_;
};

}  // namespace intermezzo::journal
