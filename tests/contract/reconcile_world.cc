#include "tests/contract/reconcile_world.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"

namespace intermezzo::tests {

using forwarder::v1::SnapshotObject;
using storage::v1::ObjectRow;

// The state of a replica, read where it lies.
class ReplicaState final : public sidecar::ServerState {
 public:
  explicit ReplicaState(ReconcileWorld& world) : world_(world), source_(world.b_.replica()) {}

  absl::StatusOr<forwarder::v1::TableHeader> FetchTable(
      const std::function<absl::Status(const SnapshotObject&)>& object) override {
    if (world_.failures_ > 0) {
      --world_.failures_;
      return absl::UnavailableError("no live replica");
    }
    auto view = source_.db().NewView();
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
    if (world_.after_table_) world_.after_table_();
    return header;
  }

  absl::Status FetchObjects(
      const std::vector<ObjectId>& objects,
      const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
      const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) override {
    for (ObjectId id : objects) {
      forwarder::v1::ObjectEnd last;
      last.mutable_object()->set_object(id.value());
      const auto row = source_.db().Object(id);
      if (!row) {
        last.set_gone(true);
      } else {
        *last.mutable_object() = Describe(id.value(), *row);
        if (absl::Status status = SendContent(id, *row, last.object().size(), chunk);
            !status.ok()) {
          return status;
        }
      }
      if (absl::Status status = end(last); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Seq> Head() override { return world_.journal_.State().head; }

 private:
  SnapshotObject Describe(uint64_t id, const ObjectRow& row) {
    SnapshotObject out;
    out.set_object(id);
    out.set_kind(row.kind());
    out.set_data_version(row.data_version());
    out.set_attributes_version(row.attributes_version());
    auto fd = source_.lower().OpenObject({row.handle_type(), row.handle()}, O_PATH);
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

  absl::Status SendContent(ObjectId id, const ObjectRow& row, uint64_t size,
                           const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk) {
    if (row.kind() != record::v1::OBJECT_KIND_FILE) return absl::OkStatus();
    auto fd = source_.lower().OpenObject({row.handle_type(), row.handle()}, O_RDONLY);
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

  ReconcileWorld& world_;
  sidecar::Replica& source_;
};

ReconcileWorld::ReconcileWorld()
    : journal_(*CollectionName::Parse("www"), 7, absl::ZeroDuration(), [] { return absl::Now(); }),
      resolver_({.store_dir = dir_.path() + "/conflicts",
                 .server = [this] { return std::make_unique<ReplicaState>(*this); },
                 .presto = nullptr,
                 .wait = [this](absl::Duration) { return a_.commit_failure(); },
                 .hindered = nullptr,
                 .conflict = [this](const std::string& kind) { conflicts_.push_back(kind); }}) {}

absl::Status ReconcileWorld::Append(TestNode& node, std::vector<record::v1::Entry> entries) {
  // As the append stream does: what precedes is what the journal is known to have.
  const sidecar::Replica& replica = node.replica();
  auto batch = journal::PrepareBatch(replica.options().ordinal, Epoch(1),
                                     replica.confirmed_origin_seq(), std::move(entries));
  if (!batch.ok()) return batch.status();
  absl::Status result;
  journal_.Append(*std::move(batch), [&](absl::StatusOr<journal::Confirmation> confirmed) {
    result = confirmed.status();
  });
  return result;
}

absl::Status ReconcileWorld::Push(TestNode& node) {
  if (absl::Status status = node.replica().CutAll(); !status.ok()) return status;
  for (;;) {
    auto local = node.replica().db().ReadLocal(node.replica().confirmed_origin_seq(), 100, 1 << 20);
    if (local.empty()) return absl::OkStatus();
    std::vector<record::v1::Entry> entries;
    for (auto& [origin_seq, entry] : local) entries.push_back(std::move(entry));
    if (absl::Status status = Append(node, std::move(entries)); !status.ok()) return status;
    if (absl::Status status = Feed(node); !status.ok()) return status;
  }
}

absl::Status ReconcileWorld::Feed(TestNode& node) {
  sidecar::Replica& replica = node.replica();
  for (int conflicts = 0;;) {
    auto entries = journal_.Read(
        replica.cursor().next(),
        {.skip_payloads_of = replica.options().ordinal, .max_bytes = 1, .max_records = 1});
    if (!entries.ok()) return entries.status();
    if (entries->empty()) return absl::OkStatus();
    record::v1::Entry entry = entries->front()->entry;
    entry.set_payload(entries->front()->payload);
    absl::Status status = replica.Apply(entry);
    if (absl::IsAborted(status) && &node == &a_ && ++conflicts < 100) {
      status = resolver_.Resolve(entry, status, replica);
    }
    if (!status.ok()) return status;
  }
}

absl::Status ReconcileWorld::CutOff() {
  for (int round = 0; round < 2; ++round) {
    for (TestNode* node : {&a_, &b_}) {
      if (absl::Status status = Push(*node); !status.ok()) return status;
      if (absl::Status status = Feed(*node); !status.ok()) return status;
    }
  }
  a_.replica().gate().Open({Epoch()});
  return absl::OkStatus();
}

absl::Status ReconcileWorld::Reconnect() {
  absl::Status status = Push(b_);
  if (status.ok()) status = a_.replica().CutAll();
  if (status.ok()) status = Feed(a_);
  if (status.ok()) status = Push(a_);
  if (status.ok()) status = Feed(b_);
  return status;
}

absl::Status ReconcileWorld::Resume() { return resolver_.Resume(a_.replica()); }

}  // namespace intermezzo::tests
