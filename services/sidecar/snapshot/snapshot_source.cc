#include "services/sidecar/snapshot/snapshot_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/sidecar/snapshot/chunk.h"
#include "services/sidecar/snapshot/content_hash.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::SnapshotObject;
using forwarder::v1::SnapshotPart;
using storage::v1::ObjectRow;

constexpr int kMaxObjects = 1000;
constexpr int kViewAttempts = 20;
constexpr absl::Duration kOwnRecordsWait = absl::Seconds(10);

struct TableView {
  std::unique_ptr<NodeDb::View> view;
  Seq seq;
  std::string chain;
};

absl::StatusOr<TableView> TakeView(Replica& replica, ReplicaSession& session) {
  absl::Status last;
  for (int attempt = 0; attempt < kViewAttempts; ++attempt) {
    TableView out;
    out.view = replica.db().NewView();
    const storage::v1::ReplicaRow state = out.view->state();
    out.seq = Seq(state.cursor());
    out.chain = state.chain();
    if (state.replay_through() != 0) {
      return absl::UnavailableError("the replica is reconciling");
    }
    // A replay leaves origin seqs behind that are never sent.
    const uint64_t settled = std::max(state.confirmed_origin_seq(), state.replayed_through());
    if (state.last_origin_seq() == settled) return out;
    // Own records beyond the cursor: the view is the prefix that ends with the last of them, if
    // nobody else's came between.
    auto own = session.WaitOwnApplied(state.last_origin_seq(), kOwnRecordsWait);
    if (!own.ok()) return absl::UnavailableError(own.status().message());
    if (own->exact && own->last_foreign <= out.seq) {
      out.seq = own->seq;
      out.chain = own->chain;
      return out;
    }
    last = absl::UnavailableError("the replica's table is not a prefix of the journal now");
  }
  return last;
}

// Whether the object went away; everything else is an error of this disk.
bool IsGone(const absl::Status& status) {
  const int error = ErrnoFromStatus(status);
  return error == ESTALE || error == ENOENT;
}

// Attributes, target, size as they are now. Nothing is set where the object is gone.
absl::Status FillFromDisk(const LowerTree& lower, const ObjectRow& row, bool content_hash,
                          SnapshotObject* out) {
  const LowerHandle handle{row.handle_type(), row.handle()};
  auto fd = lower.OpenObject(handle, O_PATH);
  if (!fd.ok()) return fd.status();
  struct stat st;
  if (fstat(fd->get(), &st) != 0) return StatusFromErrno(errno, "fstat");
  *out->mutable_attributes() = AttributesOf(st);
  auto xattrs = ReadXattrs(fd->get());
  if (!xattrs.ok()) return xattrs.status();
  for (record::v1::Xattr& xattr : *xattrs) out->add_xattrs()->Swap(&xattr);
  switch (row.kind()) {
    case record::v1::OBJECT_KIND_FILE: {
      out->set_size(st.st_size);
      if (!content_hash) break;
      auto content = lower.OpenObject(handle, O_RDONLY | O_NOATIME);
      if (!content.ok()) return content.status();
      auto digest = DigestContent(content->get(), st.st_size);
      if (!digest.ok()) return digest.status();
      out->set_content_xxh3(digest->content);
      break;
    }
    case record::v1::OBJECT_KIND_SYMLINK: {
      char target[PATH_MAX];
      const ssize_t n = readlinkat(fd->get(), "", target, sizeof target);
      if (n < 0) return StatusFromErrno(errno, "readlink");
      out->set_symlink_target(target, n);
      break;
    }
    case record::v1::OBJECT_KIND_CHARACTER_DEVICE:
    case record::v1::OBJECT_KIND_BLOCK_DEVICE:
      out->set_rdev(EncodeDevice(st.st_rdev));
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

class TableSender {
 public:
  TableSender(Replica& replica, const TableView& table, bool hashes, const EmitPart& emit)
      : replica_(replica), table_(table), hashes_(hashes), emit_(emit) {}

  absl::Status Run() {
    SnapshotPart part;
    forwarder::v1::TableHeader& header = *part.mutable_header();
    header.set_seq(table_.seq.value());
    header.set_chain(table_.chain);
    uint64_t objects = 0, bytes = 0;
    absl::Status status = table_.view->ForEachObject([&](ObjectId id, const ObjectRow& row) {
      ++objects;
      if (row.kind() == record::v1::OBJECT_KIND_DIRECTORY) {
        directories_[id.value()] = row;
        for (const auto& link : row.links()) below_[link.parent()].push_back(id.value());
      } else if (row.kind() == record::v1::OBJECT_KIND_FILE) {
        bytes += SizeOf(row);
      }
      return true;
    });
    if (!status.ok()) return status;
    header.set_objects(objects);
    header.set_bytes(bytes);
    if (status = emit_(std::move(part)); !status.ok()) return status;
    if (status = SendDirectories(); !status.ok()) return status;
    if (status = SendOthers(); !status.ok()) return status;
    SnapshotPart end;
    end.mutable_table_end();
    return emit_(std::move(end));
  }

 private:
  uint64_t SizeOf(const ObjectRow& row) {
    auto fd = replica_.lower().OpenObject({row.handle_type(), row.handle()}, O_PATH);
    struct stat st;
    return fd.ok() && fstat(fd->get(), &st) == 0 ? st.st_size : 0;
  }

  absl::Status SendDirectories() {
    std::deque<uint64_t> queue = {kRootObject.value()};
    while (!queue.empty()) {
      const uint64_t id = queue.front();
      queue.pop_front();
      const auto row = directories_.find(id);
      if (row == directories_.end()) continue;
      if (absl::Status status = Send(ObjectId(id), row->second); !status.ok()) return status;
      for (uint64_t child : below_[id]) queue.push_back(child);
    }
    return absl::OkStatus();
  }

  absl::Status SendOthers() {
    absl::Status sent;
    absl::Status status = table_.view->ForEachObject([&](ObjectId id, const ObjectRow& row) {
      if (row.kind() != record::v1::OBJECT_KIND_DIRECTORY) sent = Send(id, row);
      return sent.ok();
    });
    return sent.ok() ? status : sent;
  }

  absl::Status Send(ObjectId id, const ObjectRow& row) {
    SnapshotPart part;
    SnapshotObject& object = *part.mutable_object();
    object.set_object(id.value());
    object.set_kind(row.kind());
    object.set_data_version(row.data_version());
    object.set_attributes_version(row.attributes_version());
    for (const auto& link : row.links()) {
      const auto entry = table_.view->Entry(ObjectId(link.parent()), link.name());
      if (!entry) {
        return absl::DataLossError(
            absl::StrCat("object ", id.value(), " has a link without entry"));
      }
      forwarder::v1::SnapshotLink& out = *object.add_links();
      out.set_parent(link.parent());
      out.set_name(link.name());
      out.set_version(entry->version());
    }
    absl::Status status = FillFromDisk(replica_.lower(), row, hashes_, &object);
    if (!status.ok()) {
      if (!IsGone(status)) return status;
      // Removed since: the tail has its removal. It has to be there until then, in some form.
      object.clear_xattrs();
      object.clear_content_xxh3();
      object.set_size(0);
      object.mutable_attributes()->set_mode(0600);
      object.mutable_attributes()->mutable_mtime();
      if (row.kind() == record::v1::OBJECT_KIND_SYMLINK) object.set_symlink_target("removed");
    }
    return emit_(std::move(part));
  }

  Replica& replica_;
  const TableView& table_;
  const bool hashes_;
  const EmitPart& emit_;
  // Directories only: the others are read in a second pass.
  std::unordered_map<uint64_t, ObjectRow> directories_;
  std::unordered_map<uint64_t, std::vector<uint64_t>> below_;
};

absl::Status SendObject(Replica& replica, ObjectId id, const EmitPart& emit) {
  SnapshotPart end;
  forwarder::v1::ObjectEnd& object_end = *end.mutable_object_end();
  object_end.mutable_object()->set_object(id.value());
  const auto row = replica.db().Object(id);
  absl::Status status = row ? absl::OkStatus() : StatusFromErrno(ESTALE, "removed");
  if (status.ok() && row->kind() == record::v1::OBJECT_KIND_FILE) {
    auto fd = replica.lower().OpenObject({row->handle_type(), row->handle()}, O_RDONLY | O_NOATIME);
    struct stat st;
    if (!fd.ok()) {
      status = fd.status();
    } else if (fstat(fd->get(), &st) != 0) {
      status = StatusFromErrno(errno, "fstat");
    } else {
      absl::Status sent;
      status = ForEachData(fd->get(), st.st_size, kChunkBytes,
                           [&](uint64_t offset, std::string_view bytes) {
                             SnapshotPart part;
                             *part.mutable_chunk() = SealChunk(id.value(), offset, bytes);
                             return sent = emit(std::move(part));
                           });
      if (!sent.ok()) return sent;
    }
  }
  if (status.ok()) {
    object_end.mutable_object()->set_kind(row->kind());
    object_end.mutable_object()->set_data_version(row->data_version());
    object_end.mutable_object()->set_attributes_version(row->attributes_version());
    status = FillFromDisk(replica.lower(), *row, false, object_end.mutable_object());
  }
  if (!status.ok()) {
    if (!IsGone(status)) return status;
    object_end.set_gone(true);
  }
  return emit(std::move(end));
}

}  // namespace

absl::Status SendTable(Replica& replica, ReplicaSession& session,
                       const forwarder::v1::TableQuery& query, const EmitPart& emit) {
  auto view = TakeView(replica, session);
  if (!view.ok()) return view.status();
  return TableSender(replica, *view, query.content_hashes(), emit).Run();
}

absl::Status SendObjects(Replica& replica, const forwarder::v1::ObjectsQuery& query,
                         const EmitPart& emit) {
  if (query.objects_size() > kMaxObjects) {
    return absl::InvalidArgumentError(
        absl::StrCat("objects: ", query.objects_size(), " asked for, at most ", kMaxObjects));
  }
  for (const uint64_t id : query.objects()) {
    if (absl::Status status = SendObject(replica, ObjectId(id), emit); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace intermezzo::sidecar
