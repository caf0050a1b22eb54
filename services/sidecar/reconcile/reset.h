// Makes a replica's tree and rows the server's state at one seq, by versions: what has the server's
// versions is left alone, what has not is moved, made, fetched or removed. The first half of
// services/adr/0003-keep-both.md.
//
// Used by one thread, gate paused, nothing dirty. Takes the update lock for each step. Every step
// is a change of the lower tree followed by its rows, and finds itself done after a restart; so a
// reset that broke is just begun again. Objects on their way wait in a directory of their own in
// the root, by object id.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/sidecar/lower/lower_tree.h"
#include "services/sidecar/reconcile/conflict_store.h"
#include "services/sidecar/reconcile/server_state.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

class Reset {
 public:
  Reset(Replica& replica, ConflictStore& store, ServerState& server)
      : replica_(replica), store_(store), server_(server) {}

  // Nothing of this node is on its way to the journal. `at_least`: a state before it is refused
  // with UNAVAILABLE (the source is behind; try again). RESOURCE_EXHAUSTED: disk full; try again.
  // FAILED_PRECONDITION: the journal has other records of this node than this database; nothing
  // was changed. On success the state row says reset_done, and what the journal has already is no
  // longer in the queue.
  absl::Status Run(Seq at_least, Presto* presto);

 private:
  using Object = forwarder::v1::SnapshotObject;
  using Row = storage::v1::ObjectRow;
  // What the queue did to an object, by its first record of each aspect.
  struct Base {
    std::optional<uint64_t> data, attributes;
    bool made_here = false;
    bool shifts = false;  // bytes moved within the file
  };

  // Which of the queue's records the journal has: they are in the server's state.
  absl::Status FetchOwn();
  absl::Status FetchTable(Seq at_least);
  // Reads the queue: which versions its records started from, which rows objects had.
  absl::Status ReadQueue();
  absl::Status KeepLocalVersions();
  absl::Status Evacuate();
  absl::Status Place();
  absl::Status PlaceObject(const Object& object);
  absl::Status FetchContents();
  absl::Status SetTimes();
  absl::Status RemoveStaging();
  absl::Status Commit();

  absl::StatusOr<UniqueFd> OpenRow(ObjectId object, int flags) const;
  absl::StatusOr<Row> MakePlaceholder(const Object& object, int staging) const;
  absl::Status SetMeta(int fd, const Object& object, bool with_mtime) const;
  bool Wants(uint64_t parent, const std::string& name, uint64_t object) const;
  absl::Status PutRow(ObjectId object, const Row& row);
  void Stale(uint64_t parent, const std::string& name);
  void Stale(uint64_t object);

  Replica& replica_;
  ConflictStore& store_;
  ServerState& server_;
  Presto* presto_ = nullptr;

  OwnRecords own_;
  forwarder::v1::TableHeader header_;
  std::vector<Object> table_;         // parents before children
  std::map<uint64_t, size_t> by_id_;  // into table_
  std::map<std::pair<uint64_t, std::string>, uint64_t> wanted_names_;
  std::map<uint64_t, Base> queue_;
  std::set<uint64_t> fetch_;
  UniqueFd staging_;
};

}  // namespace intermezzo::sidecar
