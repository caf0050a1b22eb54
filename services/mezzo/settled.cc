#include "services/mezzo/settled.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/common/types/view.h"
#include "services/mezzo/poll.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

// How long one WaitReplicas lasts: progress is drawn between two.
constexpr absl::Duration kSlice = absl::Milliseconds(500);

// Errors that another attempt may not meet.
bool Passes(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// "node-2 (3 records, 4.0 KiB, 1.2 s)" for each replica below `seq`.
std::string WhoLags(Client& client, const std::string& collection, uint64_t seq) {
  const auto progress = client.ListReplicaProgress(collection);
  if (!progress.ok()) return std::string(progress.status().message());
  std::vector<std::string> behind;
  for (const auto& replica : progress->replicas()) {
    if (replica.applied_seq() >= seq) continue;
    behind.push_back(
        absl::StrCat(replica.node(), " at seq ", replica.applied_seq(),
                     replica.state() == forwarder::v1::REPLICA_STATE_AWAY ? " (away)" : ""));
  }
  return behind.empty() ? "nobody" : absl::StrJoin(behind, ", ");
}

const char* ConnectionText(node::v1::Connection connection) {
  switch (connection) {
    case node::v1::CONNECTION_JOINING:
      return "joining";
    case node::v1::CONNECTION_CONNECTED:
      return "connected";
    case node::v1::CONNECTION_DISCONNECTED:
      return "disconnected";
    case node::v1::CONNECTION_RECONNECTING:
      return "reconnecting";
    case node::v1::CONNECTION_FAILED:
      return "failed";
    default:
      return "in an unknown state";
  }
}

absl::Status Failed(const registry::v1::Node& node, const node::v1::ReplicaStatus& replica) {
  return absl::FailedPreconditionError(
      absl::StrCat("the replica on ", node.name(), " failed: ", replica.error()));
}

// A node of which the journal is to get something.
struct Writer {
  registry::v1::Node node;
  // Last origin seq when its replica was first seen connected.
  std::optional<uint64_t> until;
};

// OK where the journal has what the writer had; why it waits otherwise.
absl::Status LookAt(Client& client, const std::string& collection, Writer& writer) {
  // Only once: what is written later is not waited for.
  const auto status = client.GetNodeStatus(writer.node, /*cut=*/!writer.until.has_value());
  if (!status.ok()) return status.status();
  for (const auto& replica : status->replicas()) {
    if (replica.collection() != collection) continue;
    if (replica.connection() == node::v1::CONNECTION_FAILED) return Failed(writer.node, replica);
    if (replica.connection() != node::v1::CONNECTION_CONNECTED) {
      // What it has is replayed under other origin seqs perhaps: counted when it is done.
      return absl::UnavailableError(absl::StrCat(
          writer.node.name(), " is ", ConnectionText(replica.connection()), " with ",
          HumanCount(replica.pending_records()), " records that the journal does not have"));
    }
    if (!writer.until) writer.until = replica.last_origin_seq();
    if (replica.settled_origin_seq() >= *writer.until) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat(writer.node.name(), " has ",
                                                    HumanCount(replica.pending_records()),
                                                    " records that the journal does not have"));
  }
  return absl::OkStatus();  // Not started: it has written nothing.
}

// OK where the node's replica has nothing pending, UNAVAILABLE with the reason where it has.
absl::Status NothingPending(Client& client, const registry::v1::Node& node,
                            const std::string& collection) {
  const auto status = client.GetNodeStatus(node);
  if (!status.ok()) return status.status();
  for (const auto& replica : status->replicas()) {
    if (replica.collection() != collection) continue;
    if (replica.connection() == node::v1::CONNECTION_FAILED) {
      return Failed(node, replica);
    }
    if (replica.connection() != node::v1::CONNECTION_CONNECTED) {
      return absl::UnavailableError(
          absl::StrCat(node.name(), " is ", ConnectionText(replica.connection())));
    }
    if (replica.pending_records() > 0) {
      return absl::DeadlineExceededError(absl::StrCat(node.name(), " has ",
                                                      HumanCount(replica.pending_records()),
                                                      " records that the journal does not have"));
    }
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(node.name(), " has not started its replica"));
}

}  // namespace

absl::StatusOr<std::vector<registry::v1::Node>> NodesOf(Client& client,
                                                        const std::string& collection) {
  if (auto exists = client.GetCollection(collection); !exists.ok()) return exists.status();
  const auto replicas = client.ListReplicas(collection);
  if (!replicas.ok()) return replicas.status();
  const auto nodes = client.ListNodes();
  if (!nodes.ok()) return nodes.status();
  std::vector<registry::v1::Node> found;
  for (const auto& replica : replicas->replicas()) {
    for (const auto& node : nodes->nodes()) {
      if (node.name() == replica.node()) found.push_back(node);
    }
  }
  if (found.empty()) {
    return absl::NotFoundError(
        absl::StrCat("collection '", collection, "' has no replica; 'mezzo replica add' adds one"));
  }
  return found;
}

absl::StatusOr<uint64_t> WaitUntilReplicated(Client& client, const std::string& collection,
                                             uint64_t seq, absl::Time deadline,
                                             Progress& progress) {
  absl::Status last = absl::OkStatus();
  const absl::Time begin = absl::Now();
  const bool done = PollUntil(deadline, [&] {
    if (seq == 0) {
      const auto journal = client.GetJournal(collection);
      last = journal.status();
      if (!last.ok()) return !Passes(last);
      seq = journal->head_seq();
      if (seq == 0) return true;  // an empty journal is everywhere
    }
    while (true) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return false;
      last = client.WaitReplicas(collection, seq, std::min(left, kSlice)).status();
      if (!absl::IsDeadlineExceeded(last)) break;
      progress.Update(0, 0, absl::StrCat("seq ", seq, ": ", WhoLags(client, collection, seq)));
    }
    if (!last.ok()) progress.Update(0, 0, View(last.message()));
    return !Passes(last);
  });
  if (done) {
    if (!last.ok()) return last;
    return seq;
  }
  progress.Clear();
  if (absl::IsUnavailable(last)) return last;
  return absl::DeadlineExceededError(absl::StrCat(
      "after ", HumanDuration(absl::Now() - begin), " not every replica of '", collection,
      "' has seq ", seq, "; waiting for ", WhoLags(client, collection, seq)));
}

absl::Status WaitUntilWritesAreSent(Client& client, const std::string& collection,
                                    absl::Time deadline, Progress& progress,
                                    std::vector<std::string>& left_out) {
  absl::Status last;
  std::vector<Writer> writers;
  const bool listed = PollUntil(deadline, [&] {
    const auto nodes = NodesOf(client, collection);
    last = nodes.status();
    if (!last.ok()) return !Passes(last);
    for (const registry::v1::Node& node : *nodes) {
      if (node.connected()) {
        writers.push_back({node, std::nullopt});
      } else {
        left_out.push_back(node.name());
      }
    }
    return true;
  });
  if (!listed || !last.ok()) return last;
  for (Writer& writer : writers) {
    const bool sent = PollUntil(deadline, [&] {
      last = LookAt(client, collection, writer);
      if (last.ok()) return true;
      progress.Update(0, 0, View(last.message()));
      if (!Passes(last)) return true;
      // It may have left meanwhile.
      const auto nodes = NodesOf(client, collection);
      if (!nodes.ok()) return false;
      const auto now = std::find_if(nodes->begin(), nodes->end(), [&](const auto& node) {
        return node.name() == writer.node.name();
      });
      if (now != nodes->end() && now->connected()) {
        writer.node = *now;
        return false;
      }
      if (now != nodes->end()) left_out.push_back(writer.node.name());
      last = absl::OkStatus();
      return true;
    });
    if (!last.ok()) {
      if (!sent) progress.Clear();
      return last;
    }
  }
  return absl::OkStatus();
}

absl::Status WaitUntilNothingPending(Client& client, const std::string& collection,
                                     absl::Time deadline, Progress& progress) {
  absl::Status last = absl::OkStatus();
  const bool done = PollUntil(deadline, [&] {
    const auto nodes = NodesOf(client, collection);
    last = nodes.status();
    if (!last.ok()) return !Passes(last);
    for (const registry::v1::Node& node : *nodes) {
      last = NothingPending(client, node, collection);
      if (last.ok()) continue;
      progress.Update(0, 0, View(last.message()));
      return !Passes(last);
    }
    return true;
  });
  if (!done) progress.Clear();
  return last;
}

}  // namespace intermezzo::mezzo
