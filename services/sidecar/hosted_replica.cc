#include "services/sidecar/hosted_replica.h"

#include <errno.h>
#include <grpcpp/channel.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"
#include "services/sidecar/reconcile/keep_both.h"
#include "services/sidecar/reconcile/snapshot_server_state.h"
#include "services/sidecar/session/grpc/grpc_append_stream.h"
#include "services/sidecar/session/grpc/grpc_forward_stream.h"
#include "services/sidecar/session/grpc/grpc_token_client.h"
#include "services/sidecar/session/instance.h"
#include "services/sidecar/snapshot/grpc/grpc_join_server.h"
#include "services/sidecar/snapshot/grpc/snapshot_server.h"

namespace intermezzo::sidecar {
namespace {

// A busy mount is left to its users and detached.
constexpr absl::Duration kUnmountGrace = absl::Seconds(2);

node::v1::Connection ToProto(Connection::Phase phase) {
  switch (phase) {
    case Connection::Phase::kJoining:
      return node::v1::CONNECTION_JOINING;
    case Connection::Phase::kReconnecting:
      return node::v1::CONNECTION_RECONNECTING;
    case Connection::Phase::kConnected:
      return node::v1::CONNECTION_CONNECTED;
    case Connection::Phase::kDisconnected:
    case Connection::Phase::kStopped:
      return node::v1::CONNECTION_DISCONNECTED;
    case Connection::Phase::kFailed:
      return node::v1::CONNECTION_FAILED;
  }
  return node::v1::CONNECTION_UNSPECIFIED;
}

// A replica that has to join anew may do so in another lower directory; its table is made anew too.
absl::Status FollowLowerDir(const LowerTree& lower, NodeDb& db) {
  const storage::v1::ReplicaRow state = db.State();
  auto row = db.Object(kRootObject);
  if (state.joined() || state.cursor() == 0 || !row) return absl::OkStatus();
  auto handle = lower.HandleAt(lower.root_fd(), "");
  if (!handle.ok()) return handle.status();
  if (row->handle_type() == handle->type && row->handle() == handle->bytes) return absl::OkStatus();
  struct stat st;
  if (fstat(lower.root_fd(), &st) != 0) return StatusFromErrno(errno, "fstat of the root");
  auto batch = db.NewBatch();
  batch->RemoveObject(kRootObject, *row);
  row->set_handle_type(handle->type);
  row->set_handle(handle->bytes);
  row->set_inode(st.st_ino);
  batch->PutObject(kRootObject, *row);
  return db.Commit(std::move(batch), true);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostedReplica>> HostedReplica::Open(Options options) {
  std::unique_ptr<HostedReplica> hosted(new HostedReplica(std::move(options)));
  if (absl::Status status = hosted->Init(); !status.ok()) return status;
  return hosted;
}

HostedReplica::HostedReplica(Options options) : options_(std::move(options)) {}

absl::Status HostedReplica::Init() {
  const storage::v1::AssignedReplica& assigned = options_.assigned;
  const auto collection = CollectionName::Parse(assigned.collection());
  if (!collection.ok()) return collection.status();
  const auto node = NodeName::Parse(options_.node);
  if (!node.ok()) return node.status();
  // Another incarnation has another database: it joins anew.
  const std::string db_dir = absl::StrCat(options_.data_dir, "/db-", assigned.collection_uid(), "-",
                                          options_.ordinal.value());
  if (absl::Status status = MakeDirectories(db_dir, 0700); !status.ok()) return status;
  if (absl::Status status = MakeDirectories(assigned.lower_dir(), 0755); !status.ok()) {
    return status;
  }
  auto lower = LowerTree::Open(assigned.lower_dir());
  if (!lower.ok()) return lower.status();
  auto db = NodeDb::Open(db_dir);
  if (!db.ok()) return db.status();
  if (absl::Status status = FollowLowerDir(**lower, **db); !status.ok()) return status;
  Replica::Options replica_options{.collection = *collection,
                                   .collection_uid = assigned.collection_uid(),
                                   .node = *node,
                                   .instance = options_.instance,
                                   .ordinal = options_.ordinal};
  auto replica = Replica::Open(std::move(replica_options), *std::move(lower), *std::move(db));
  if (!replica.ok()) return replica.status();
  replica_ = *std::move(replica);
  metrics_ =
      std::make_unique<ReplicaMetrics>(*options_.metrics, assigned.collection(), options_.node);
  if (options_.presto) {
    auto presto = options_.presto(*replica_, assigned.mount_dir());
    if (!presto.ok()) return presto.status();
    presto_ = *std::move(presto);
    if (presto_ != nullptr) replica_->SetPresto(presto_.get());
  }
  join_server_ = MakeGrpcJoinServer(options_.journal, options_.forwarder, assigned.collection(),
                                    options_.node);
  snapshots_ = std::make_unique<SnapshotServer>(options_.forwarder, *replica_);
  resolver_ = std::make_unique<KeepBoth>(KeepBoth::Options{
      .store_dir = absl::StrCat(options_.data_dir, "/conflicts-", assigned.collection_uid()),
      .server = [this] { return std::make_unique<SnapshotServerState>(*join_server_); },
      .presto = presto_.get(),
      .wait = [this](absl::Duration duration) { return session_->WaitOrStop(duration); },
      .hindered = [this](const absl::Status& reason) { session_->ResolvingHindered(reason); },
      .conflict = [this](const std::string& kind) { session_->CountConflict(kind); }});
  ReplicaSession::Hooks hooks;
  hooks.join = [this](JoinContext& context) { return Join(*replica_, *join_server_, context); };
  hooks.serve = [this](const std::string& session) { snapshots_->Serve(session, *session_); };
  hooks.joined = [this] { return Mount(); };
  if (presto_ != nullptr) {
    hooks.flush_mappings = [this](absl::Duration timeout) {
      return presto_->FlushMappings(timeout);
    };
  }
  session_ = std::make_unique<ReplicaSession>(
      ReplicaSession::Options{.offline_writes = !assigned.deny_offline_writes(),
                              .token_wait = options_.token_wait,
                              .disconnect_after = options_.disconnect_after},
      *replica_, *resolver_, metrics_.get(), std::move(hooks));
  session_->Start([this](ReplicaSession& session) {
    return ReplicaSession::Links{MakeGrpcTokenClient(options_.token, options_.assigned.collection(),
                                                     options_.node, options_.instance),
                                 MakeGrpcAppendStream(options_.journal, *replica_, session),
                                 MakeGrpcForwardStream(options_.forwarder, session)};
  });
  return absl::OkStatus();
}

absl::Status HostedReplica::Mount() {
  if (presto_ == nullptr) return absl::OkStatus();
  const std::string& mount_dir = options_.assigned.mount_dir();
  // What a mount left behind after a crash is the driver's to clear away: it answers ENOTCONN here.
  if (absl::Status status = MakeDirectories(mount_dir, 0755); !status.ok()) {
    log::Debug("mount point", {{"error", std::string(status.message())}});
  }
  if (absl::Status status = presto_->Mount(); !status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("cannot mount at ", mount_dir, ": ", status.message()));
  }
  metrics_->Driver(presto_->kind(), "no kernel module");
  metrics_->MountUp(true);
  log::Info("mounted", {{"collection", options_.assigned.collection()}, {"mount_dir", mount_dir}});
  return absl::OkStatus();
}

HostedReplica::~HostedReplica() { (void)Stop(absl::ZeroDuration()); }

absl::Status HostedReplica::Stop(absl::Duration timeout) {
  if (stopped_) return absl::OkStatus();
  stopped_ = true;
  absl::Status status;
  if (join_server_ != nullptr) join_server_->Cancel();
  if (session_ != nullptr) status = session_->Stop(timeout);
  if (snapshots_ != nullptr) snapshots_->Shutdown();
  if (presto_ != nullptr) {
    presto_->Unmount(kUnmountGrace);
    metrics_->MountUp(false);
  }
  return status;
}

absl::Status HostedReplica::Retire() {
  absl::MutexLock lock(&replica_->update_lock());
  storage::v1::ReplicaRow state = replica_->state();
  state.set_joined(false);
  auto batch = replica_->mutable_db().NewBatch();
  batch->PutState(state);
  if (absl::Status status = replica_->mutable_db().Commit(std::move(batch), true); !status.ok()) {
    return status;
  }
  return replica_->ReloadState();
}

node::v1::ReplicaStatus HostedReplica::status() const {
  node::v1::ReplicaStatus out;
  const ReplicaSession::Status session = session_->status();
  out.set_collection(options_.assigned.collection());
  out.set_lower_dir(options_.assigned.lower_dir());
  out.set_mount_dir(options_.assigned.mount_dir());
  out.set_connection(ToProto(session.phase));
  out.set_cursor(replica_->cursor().value());
  out.set_pending_records(replica_->pending_records());
  out.set_epoch(session.epoch.value());
  out.set_joined_objects(session.joined_objects);
  out.set_total_objects(session.total_objects);
  out.set_conflicts(session.conflicts);
  out.set_error(std::string(session.error.message()));
  if (presto_ != nullptr) out.set_driver(presto_->kind());
  // In this order: what is added in between is not settled.
  out.set_last_origin_seq(replica_->last_origin_seq());
  out.set_settled_origin_seq(replica_->settled_origin_seq());
  return out;
}

}  // namespace intermezzo::sidecar
