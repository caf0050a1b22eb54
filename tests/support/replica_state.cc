#include "tests/support/replica_state.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>

#include "services/common/record/codec.h"

namespace intermezzo::tests {

using forwarder::v1::SnapshotObject;
using storage::v1::ObjectRow;

absl::StatusOr<forwarder::v1::TableHeader> ReplicaState::FetchTable(
    const std::function<absl::Status(const SnapshotObject&)>& object) {
  if (options_.before_table) {
    if (absl::Status status = options_.before_table(); !status.ok()) return status;
  }
  sidecar::Replica& source = *options_.source;
  auto view = source.db().NewView();
  forwarder::v1::TableHeader header;
  header.set_seq(view->state().cursor());
  header.set_chain(view->state().chain());
  std::map<uint64_t, ObjectRow> rows;
  auto visit = [&](ObjectId id, const ObjectRow& row) {
    rows[id.value()] = row;
    return true;
  };
  if (absl::Status status = view->ForEachObject(visit); !status.ok()) return status;
  std::map<uint64_t, std::vector<uint64_t>> below;
  for (const auto& [id, row] : rows) {
    if (row.kind() != record::v1::OBJECT_KIND_DIRECTORY) continue;
    for (const auto& link : row.links()) below[link.parent()].push_back(id);
  }
  std::deque<uint64_t> order = {kRootObject.value()};
  for (size_t i = 0; i < order.size(); ++i) {
    for (uint64_t child : below[order[i]]) order.push_back(child);
  }
  for (const auto& [id, row] : rows) {
    if (row.kind() != record::v1::OBJECT_KIND_DIRECTORY) order.push_back(id);
  }
  for (uint64_t id : order) {
    SnapshotObject out = Describe(id, rows[id]);
    for (const auto& link : rows[id].links()) {
      auto& added = *out.add_links();
      added.set_parent(link.parent());
      added.set_name(link.name());
      added.set_version(view->Entry(ObjectId(link.parent()), link.name())->version());
    }
    if (absl::Status status = object(out); !status.ok()) return status;
  }
  if (options_.after_table) options_.after_table();
  return header;
}

absl::Status ReplicaState::FetchObjects(
    const std::vector<ObjectId>& objects,
    const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
    const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) {
  for (ObjectId id : objects) {
    forwarder::v1::ObjectEnd last;
    last.mutable_object()->set_object(id.value());
    const auto row = options_.source->db().Object(id);
    if (!row) {
      last.set_gone(true);
    } else {
      *last.mutable_object() = Describe(id.value(), *row);
      if (absl::Status status = SendContent(id, *row, last.object().size(), chunk); !status.ok()) {
        return status;
      }
    }
    if (absl::Status status = end(last); !status.ok()) return status;
  }
  return absl::OkStatus();
}

SnapshotObject ReplicaState::Describe(uint64_t id, const ObjectRow& row) {
  SnapshotObject out;
  out.set_object(id);
  out.set_kind(row.kind());
  out.set_data_version(row.data_version());
  out.set_attributes_version(row.attributes_version());
  auto fd = options_.source->lower().OpenObject({row.handle_type(), row.handle()}, O_PATH);
  struct stat st;
  if (!fd.ok() || fstat(fd->get(), &st) != 0) return out;
  *out.mutable_attributes() = sidecar::AttributesOf(st);
  if (const auto xattrs = sidecar::ReadXattrs(fd->get()); xattrs.ok()) {
    for (const auto& xattr : *xattrs) *out.add_xattrs() = xattr;
  }
  if (S_ISREG(st.st_mode)) out.set_size(static_cast<uint64_t>(st.st_size));
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
    out.set_rdev(sidecar::EncodeDevice(st.st_rdev));
  }
  char target[PATH_MAX];
  const ssize_t n = readlinkat(fd->get(), "", target, sizeof(target));
  if (n > 0) out.set_symlink_target(target, static_cast<size_t>(n));
  return out;
}

absl::Status ReplicaState::SendContent(
    ObjectId id, const ObjectRow& row, uint64_t size,
    const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk) {
  if (row.kind() != record::v1::OBJECT_KIND_FILE) return absl::OkStatus();
  auto fd = options_.source->lower().OpenObject({row.handle_type(), row.handle()}, O_RDONLY);
  if (!fd.ok()) return fd.status();
  for (off_t at = 0; at < static_cast<off_t>(size);) {
    const off_t data = lseek(fd->get(), at, SEEK_DATA);
    if (data < 0) break;
    at = std::min<off_t>(lseek(fd->get(), data, SEEK_HOLE), data + 100'000);
    std::string bytes(static_cast<size_t>(at - data), '\0');
    if (pread(fd->get(), bytes.data(), bytes.size(), data) != at - data) {
      return absl::UnavailableError("read");
    }
    forwarder::v1::Chunk part;
    part.set_object(id.value());
    part.set_offset(static_cast<uint64_t>(data));
    part.mutable_digest()->set_length(bytes.size());
    part.mutable_digest()->set_xxh3(Xxh3(bytes));
    part.set_data(std::move(bytes));
    if (absl::Status status = chunk(part); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::tests
