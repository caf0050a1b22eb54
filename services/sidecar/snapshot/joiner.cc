#include "services/sidecar/snapshot/joiner.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log/log.h"
#include "services/common/status/errno.h"
#include "services/sidecar/snapshot/directory.h"
#include "services/sidecar/snapshot/import.h"
#include "services/sidecar/snapshot/tree_builder.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::SnapshotQuery;

// Up to here the entries themselves are as good as a snapshot.
constexpr uint64_t kMaxCatchUp = 100'000;
// Objects of one query, and queries under way: the source reads the next while this one arrives.
constexpr size_t kQueryObjects = 256;
constexpr size_t kQueriesAhead = 2;
constexpr int kRowsPerBatch = 1000;
constexpr absl::Duration kMinBackoff = absl::Milliseconds(200);
constexpr absl::Duration kMaxBackoff = absl::Seconds(5);

class Joiner {
 public:
  Joiner(Replica& replica, JoinServer& server, JoinContext& context)
      : replica_(replica),
        server_(server),
        context_(context),
        collection_(replica.options().collection.str()) {}

  absl::Status Run() {
    absl::Duration backoff = kMinBackoff;
    for (std::string told;;) {
      absl::Status status = Once();
      context_.Hindered(status);
      if (status.ok() || context_.cancelled()) return status;
      if (!MayPass(status)) return status;
      if (told != status.message()) {
        told = std::string(status.message());
        log::Warning("joining waits", {{"collection", collection_}, {"error", told}});
      }
      if (status = context_.Pause(backoff); !status.ok()) return status;
      backoff = std::min(backoff * 2, kMaxBackoff);
    }
  }

 private:
  // Errors that a later try may not meet.
  static bool MayPass(const absl::Status& status) {
    return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
           absl::IsResourceExhausted(status) || absl::IsCancelled(status) ||
           absl::IsAborted(status) || absl::IsNotFound(status) ||
           absl::IsFailedPrecondition(status);
  }

  absl::Status Once() {
    // An import that was interrupted has records, and everything else makes none.
    if (replica_.last_origin_seq() > 0 && replica_.cursor() == Seq()) return Import(true);
    auto journal = server_.Journal();
    if (!journal.ok()) return journal.status();
    auto names = ReadNames(replica_.lower().root_fd());
    if (!names.ok()) return names.status();
    const bool empty = names->empty();
    if (journal->head == Seq()) return empty ? Empty() : Import(false);
    if (empty && journal->first <= Seq(1) && journal->head.value() < kMaxCatchUp &&
        replica_.cursor() == Seq()) {
      return Joined();
    }
    return Fetch(!empty);
  }

  // No record tells of an empty collection's root, so that all nodes agree on its time like this.
  absl::Status Empty() {
    const struct timespec times[2] = {{0, UTIME_OMIT}, {0, 0}};
    if (futimens(replica_.lower().root_fd(), times) != 0) {
      return StatusFromErrno(errno, "set the lower directory's time");
    }
    return Joined();
  }

  absl::Status Joined() {
    absl::MutexLock lock(&replica_.update_lock());
    auto batch = replica_.mutable_db().NewBatch();
    storage::v1::ReplicaRow state = replica_.state();
    state.set_joined(true);
    batch->PutState(state);
    if (absl::Status status = replica_.mutable_db().Commit(std::move(batch), true); !status.ok()) {
      return status;
    }
    return replica_.ReloadState();
  }

  absl::Status Import(bool resumed) {
    if (!resumed) {
      // Nodes with content that join at once: the one that has the token first imports, the others
      // find its first record and adopt.
      auto head = context_.AcquireToken();
      if (!head.ok()) return head.status();
      if (*head != Seq()) {
        context_.ReleaseToken();
        return absl::UnavailableError("another node imports its content first");
      }
      if (absl::Status status = BeginImport(replica_); !status.ok()) return status;
      if (absl::Status status = context_.WaitConfirmed(replica_.last_origin_seq()); !status.ok()) {
        return status;
      }
      context_.AllowRecall();
    }
    auto total = CountTree(replica_);
    if (!total.ok()) return total.status();
    log::Info(resumed ? "the import goes on" : "importing",
              {{"collection", collection_}, {"objects", absl::StrCat(*total)}});
    ImportHooks hooks;
    hooks.progress = [&](uint64_t done) { context_.Progress(done, *total); };
    hooks.check = [&] {
      return context_.cancelled() ? absl::CancelledError("the session stops") : absl::OkStatus();
    };
    if (absl::Status status = ImportTree(replica_, hooks); !status.ok()) return status;
    return Joined();
  }

  absl::Status Fetch(bool has_content) {
    if (absl::Status status = ClearTable(); !status.ok()) return status;
    TreeBuilder tree(replica_.lower(), AsideDir());
    const auto fetch = server_.Fetch();
    SnapshotQuery query;
    query.mutable_table()->set_content_hashes(has_content);
    if (absl::Status status = fetch->Send(query); !status.ok()) return status;
    forwarder::v1::TableHeader header;
    if (absl::Status status = ReadTable(*fetch, has_content, &header, &tree); !status.ok())
      return status;
    log::Info("building the tree", {{"collection", collection_},
                                    {"seq", absl::StrCat(header.seq())},
                                    {"objects", absl::StrCat(tree.objects())}});
    uint64_t made = 0;
    absl::Status status = tree.Build([&] {
      // Content is the other half.
      context_.Progress(++made / 2, tree.objects());
      return context_.cancelled() ? absl::CancelledError("the session stops") : absl::OkStatus();
    });
    if (!status.ok()) return status;
    if (status = FetchContent(*fetch, &tree); !status.ok()) return status;
    if (status = tree.Finish(); !status.ok()) return status;
    auto journal = server_.Journal();
    if (!journal.ok()) return journal.status();
    if (status = CommitTable(tree, header, journal->head); !status.ok()) return status;
    context_.Progress(tree.objects(), tree.objects());
    log::Info("joined by a snapshot", {{"collection", collection_},
                                       {"seq", absl::StrCat(header.seq())},
                                       {"files_kept", absl::StrCat(tree.kept_files())},
                                       {"files_fetched", absl::StrCat(tree.wanted().size())},
                                       {"names_set_aside", absl::StrCat(tree.set_aside())}});
    if (tree.set_aside() > 0) {
      log::Warning("content that the collection does not have was moved away",
                   {{"collection", collection_}, {"to", tree.aside()}});
    }
    return absl::OkStatus();
  }

  absl::Status ReadTable(SnapshotFetch& fetch, bool has_content, forwarder::v1::TableHeader* header,
                         TreeBuilder* tree) {
    bool begun = false;
    for (;;) {
      auto part = fetch.Next();
      if (!part.ok()) return part.status();
      if (part->has_header() && !begun) {
        begun = true;
        *header = part->header();
      } else if (part->has_object() && begun) {
        if (has_content) {
          if (absl::Status status = CheckComplete(part->object()); !status.ok()) return status;
        }
        if (absl::Status status = CheckOwn(part->object()); !status.ok()) return status;
        if (absl::Status status = tree->Add(std::move(*part->mutable_object())); !status.ok()) {
          return status;
        }
      } else if (part->has_table_end() && begun) {
        return absl::OkStatus();
      } else {
        return absl::InvalidArgumentError("snapshot: parts of the table in the wrong order");
      }
    }
  }

  // Numbers that this node gave before its database was lost would be given again, and the journal
  // would take new records for old ones.
  absl::Status CheckOwn(const forwarder::v1::SnapshotObject& object) {
    uint64_t newest = std::max(Own(object.data_version()), Own(object.attributes_version()));
    for (const auto& link : object.links()) newest = std::max(newest, Own(link.version()));
    if (newest <= replica_.last_origin_seq()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "the collection has record ", newest, " of this node, and its database ends at ",
        replica_.last_origin_seq(), ": the database was lost or is an old one. Stop the sidecar, ",
        "remove the file `instance` of its data_dir, start it: it joins as a new incarnation"));
  }

  // The counter of a version of ours, else 0.
  uint64_t Own(uint64_t version) const {
    const Version v(version);
    return v.ordinal() == replica_.options().ordinal ? v.counter() : 0;
  }

  // Adopting an import that is half there would set the other half aside.
  static absl::Status CheckComplete(const forwarder::v1::SnapshotObject& object) {
    if (object.object() != kRootObject.value()) return absl::OkStatus();
    for (const auto& xattr : object.xattrs()) {
      if (xattr.name() == kImportingXattr) {
        return absl::UnavailableError(
            absl::StrCat("node ", xattr.value(), " imports its content first"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status FetchContent(SnapshotFetch& fetch, TreeBuilder* tree) {
    const std::vector<ObjectId>& wanted = tree->wanted();
    const uint64_t before = tree->objects() - wanted.size();
    size_t asked = 0;
    std::deque<size_t> open;  // objects that each query under way still has to end
    for (size_t ended = 0; ended < wanted.size();) {
      while (asked < wanted.size() && open.size() < kQueriesAhead) {
        SnapshotQuery query;
        const size_t end = std::min(wanted.size(), asked + kQueryObjects);
        open.push_back(end - asked);
        for (; asked < end; ++asked) {
          query.mutable_objects()->add_objects(wanted[asked].value());
        }
        if (absl::Status status = fetch.Send(query); !status.ok()) return status;
      }
      auto part = fetch.Next();
      if (!part.ok()) return part.status();
      if (context_.cancelled()) return absl::CancelledError("the session stops");
      if (part->has_chunk()) {
        if (absl::Status status = tree->Write(part->chunk()); !status.ok()) return status;
      } else if (part->has_object_end()) {
        if (absl::Status status = tree->End(part->object_end()); !status.ok()) return status;
        ++ended;
        if (--open.front() == 0) open.pop_front();
        context_.Progress(std::max(tree->objects() / 2, before + ended), tree->objects());
      } else {
        return absl::InvalidArgumentError("snapshot: content in the wrong order");
      }
    }
    return absl::OkStatus();
  }

  // What an interrupted attempt left. The root's row stays.
  absl::Status ClearTable() {
    absl::MutexLock lock(&replica_.update_lock());
    NodeDb& db = replica_.mutable_db();
    auto batch = db.NewBatch();
    int rows = 0;
    absl::Status status;
    absl::Status read =
        db.NewView()->ForEachObject([&](ObjectId id, const storage::v1::ObjectRow& row) {
          if (id == kRootObject) return true;
          batch->RemoveObject(id, row);
          for (const auto& link : row.links())
            batch->RemoveEntry(ObjectId(link.parent()), link.name());
          if (++rows % kRowsPerBatch != 0) return true;
          status = db.Commit(std::move(batch), false);
          batch = db.NewBatch();
          return status.ok();
        });
    if (!read.ok()) return read;
    if (!status.ok()) return status;
    return db.Commit(std::move(batch), true);
  }

  absl::Status CommitTable(const TreeBuilder& tree, const forwarder::v1::TableHeader& header,
                           Seq head) {
    absl::MutexLock lock(&replica_.update_lock());
    NodeDb& db = replica_.mutable_db();
    auto batch = db.NewBatch();
    int rows = 0;
    absl::Status status =
        tree.ForEachRow([&](ObjectId id, const storage::v1::ObjectRow& row,
                            const forwarder::v1::SnapshotObject& object) -> absl::Status {
          batch->PutObject(id, row);
          for (const auto& link : object.links()) {
            storage::v1::EntryRow entry;
            entry.set_object(id.value());
            entry.set_version(link.version());
            batch->PutEntry(ObjectId(link.parent()), link.name(), entry);
          }
          if (++rows % kRowsPerBatch != 0) return absl::OkStatus();
          absl::Status committed = db.Commit(std::move(batch), false);
          batch = db.NewBatch();
          return committed;
        });
    if (!status.ok()) return status;
    storage::v1::ReplicaRow state = replica_.state();
    state.set_cursor(header.seq());
    state.set_chain(header.chain());
    // Content may be newer than the table, up to what the journal had after the last was read.
    state.set_redo_until_seq(head.value() > header.seq() ? head.value() : 0);
    state.set_joined(true);
    batch->PutState(state);
    if (status = db.Commit(std::move(batch), true); !status.ok()) return status;
    return replica_.ReloadState();
  }

  std::string AsideDir() const {
    std::string lower = replica_.lower().root();
    while (lower.size() > 1 && lower.back() == '/') lower.pop_back();
    return absl::StrCat(lower, ".set-aside-",
                        absl::FormatTime("%Y%m%dT%H%M%E3SZ", absl::Now(), absl::UTCTimeZone()));
  }

  Replica& replica_;
  JoinServer& server_;
  JoinContext& context_;
  const std::string collection_;
};

}  // namespace

absl::Status Join(Replica& replica, JoinServer& server, JoinContext& context) {
  return Joiner(replica, server, context).Run();
}

}  // namespace intermezzo::sidecar
