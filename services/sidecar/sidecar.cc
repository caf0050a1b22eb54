#include "services/sidecar/sidecar.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/config/config.h"
#include "services/common/log/log.h"
#include "services/common/rpc/channel.h"
#include "services/common/types/names.h"
#include "services/common/types/view.h"
#include "services/sidecar/session/instance.h"

namespace intermezzo::sidecar {
namespace {

// A replica that could not be opened (a disk not mounted yet, a full one) is tried again so often.
constexpr absl::Duration kOpenRetry = absl::Seconds(2);
// A replica that was unassigned hands back within this time.
constexpr absl::Duration kRemoveTimeout = absl::Seconds(10);

// Whether the replica has to be opened anew for the other assignment.
bool SameReplica(const storage::v1::AssignedReplica& a, const storage::v1::AssignedReplica& b) {
  return a.collection_uid() == b.collection_uid() && a.lower_dir() == b.lower_dir() &&
         a.mount_dir() == b.mount_dir();
}

}  // namespace

absl::Status Sidecar::Validate(const config::v1::SidecarConfig& config) {
  const std::pair<const std::string&, const char*> required[] = {
      {config.node(), "node"},
      {config.data_dir(), "data_dir"},
      {config.token_address(), "token_address"},
      {config.journal_address(), "journal_address"},
      {config.forwarder_address(), "forwarder_address"}};
  for (const auto& [value, field] : required) {
    if (absl::Status status = RequireField(value, field); !status.ok()) return status;
  }
  if (const auto name = NodeName::Parse(config.node()); !name.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("node: ", name.status().message()));
  }
  if (config.data_dir()[0] != '/') {
    return absl::InvalidArgumentError("data_dir: must be an absolute path");
  }
  if (config.fuse_threads() > 256) {
    return absl::InvalidArgumentError("fuse_threads: must be at most 256");
  }
  const std::pair<absl::Duration, const char*> durations[] = {
      {DurationOr(config.has_token_wait(), config.token_wait(), absl::Seconds(30)), "token_wait"},
      {DurationOr(config.has_disconnect_after(), config.disconnect_after(), absl::Seconds(3)),
       "disconnect_after"}};
  for (const auto& [value, field] : durations) {
    if (value < absl::Milliseconds(10) || value > absl::Hours(24)) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": must be from 10ms to 24h"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Sidecar>> Sidecar::Build(const config::v1::SidecarConfig& config,
                                                        RunnerContext& context,
                                                        PrestoFactory presto) {
  if (absl::Status status = Validate(config); !status.ok()) return status;
  if (absl::Status status = MakeDirectories(config.data_dir(), 0755); !status.ok()) return status;
  std::unique_ptr<Sidecar> sidecar(new Sidecar(config, context, std::move(presto)));
  auto instance = LoadOrMakeInstance(config.data_dir());
  if (!instance.ok()) return instance.status();
  sidecar->instance_ = *instance;
  auto assignment = LoadAssignment(config.data_dir());
  if (!assignment.ok()) return assignment.status();
  absl::MutexLock lock(&sidecar->mu_);
  // Of another incarnation (the instance file was removed): its ordinal is not ours.
  if (assignment->instance() == *instance) sidecar->assignment_ = *std::move(assignment);
  sidecar->assignment_.set_format(1);
  sidecar->assignment_.set_instance(*instance);
  return sidecar;
}

Sidecar::Sidecar(const config::v1::SidecarConfig& config, RunnerContext& context,
                 PrestoFactory presto)
    : config_(config),
      metrics_(context.metrics),
      presto_(std::move(presto)),
      token_(MakeChannel(config.token_address())),
      journal_(MakeChannel(config.journal_address())),
      forwarder_(MakeChannel(config.forwarder_address())),
      node_service_(new NodeService(*this)) {}

Sidecar::~Sidecar() { Drain(absl::ZeroDuration()); }

std::vector<grpc::Service*> Sidecar::Services() { return {node_service_->service()}; }

absl::Status Sidecar::Start(const std::string& grpc_address) {
  {
    absl::MutexLock lock(&mu_);
    changed_ = true;
  }
  supervisor_ = std::thread([this] { RunSupervisor(); });
  registration_.reset(new Registration(token_, config_.node(), instance_, grpc_address, *this));
  registration_->Start();
  return absl::OkStatus();
}

void Sidecar::Drain(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (supervisor_.joinable()) supervisor_.join();
  std::map<std::string, std::shared_ptr<HostedReplica>> running;
  {
    absl::MutexLock lock(&mu_);
    running = running_;
  }
  std::vector<std::thread> threads;
  threads.reserve(running.size());
  for (auto& [collection, replica] : running) {
    threads.emplace_back([&replica = replica, &collection = collection, deadline] {
      if (absl::Status status = replica->Stop(deadline - absl::Now()); !status.ok()) {
        log::Warning("replica not handed back",
                     {{"collection", collection}, {"error", std::string(status.message())}});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // Recalls are heard up to here.
  if (registration_ != nullptr) registration_->Shutdown();
  absl::MutexLock lock(&mu_);
  running_.clear();
}

std::shared_ptr<HostedReplica> Sidecar::Find(const std::string& collection) {
  absl::MutexLock lock(&mu_);
  const auto found = running_.find(collection);
  return found == running_.end() ? nullptr : found->second;
}

std::shared_ptr<Replica> Sidecar::FindReplica(const std::string& collection) {
  std::shared_ptr<HostedReplica> hosted = Find(collection);
  if (hosted == nullptr) return nullptr;
  Replica* replica = &hosted->replica();
  return {std::move(hosted), replica};
}

// ---- what the registry says --------------------------------------------------------------------

void Sidecar::Registered(Ordinal ordinal) {
  absl::MutexLock lock(&mu_);
  if (assignment_.ordinal() == ordinal.value()) return;
  assignment_.set_ordinal(static_cast<uint32_t>(ordinal.value()));
  Save();
  log::Info("registered", {{"node", config_.node()}, {"ordinal", absl::StrCat(ordinal.value())}});
}

void Sidecar::Assigned(const std::vector<registry::v1::Replica>& replicas) {
  absl::MutexLock lock(&mu_);
  assignment_.clear_replicas();
  for (const registry::v1::Replica& replica : replicas) {
    storage::v1::AssignedReplica& assigned = *assignment_.add_replicas();
    assigned.set_collection(replica.collection());
    assigned.set_collection_uid(replica.collection_uid());
    const std::string base =
        absl::StrCat(config_.data_dir(), "/replicas/", replica.collection(), "/");
    assigned.set_lower_dir(replica.lower_dir().empty() ? absl::StrCat(base, "lower")
                                                       : replica.lower_dir());
    assigned.set_mount_dir(replica.mount_dir().empty() ? absl::StrCat(base, "mnt")
                                                       : replica.mount_dir());
    assigned.set_deny_offline_writes(replica.offline_writes() == registry::v1::OFFLINE_WRITES_DENY);
  }
  Save();
}

void Sidecar::Recalled(const std::string& collection, Epoch epoch) {
  if (const auto replica = Find(collection)) replica->session().Recalled(epoch);
}

void Sidecar::Refused(const absl::Status& status) {
  log::Error("the registry refuses this node",
             {{"node", config_.node()}, {"error", std::string(status.message())}});
}

void Sidecar::Save() {
  changed_ = true;
  if (absl::Status status = SaveAssignment(config_.data_dir(), assignment_); !status.ok()) {
    // It goes on with what it has in memory; a restart would begin with the older list.
    log::Error("the assignment cannot be kept", {{"error", std::string(status.message())}});
  }
}

// ---- what runs ---------------------------------------------------------------------------------

void Sidecar::RunSupervisor() {
  bool again = false;
  for (;;) {
    {
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return changed_ || stopping_; };
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&ready), again ? kOpenRetry : absl::InfiniteDuration());
      if (stopping_) return;
      changed_ = false;
    }
    again = Reconcile();
  }
}

bool Sidecar::Reconcile() {
  storage::v1::Assignment assignment;
  std::map<std::string, std::shared_ptr<HostedReplica>> running;
  {
    absl::MutexLock lock(&mu_);
    assignment = assignment_;
    running = running_;
  }
  std::map<std::string, const storage::v1::AssignedReplica*> wanted;
  for (const auto& assigned : assignment.replicas()) wanted[assigned.collection()] = &assigned;

  for (auto& [collection, replica] : running) {
    const auto found = wanted.find(collection);
    if (found != wanted.end() && SameReplica(*found->second, replica->options().assigned)) {
      replica->session().SetOfflineWrites(!found->second->deny_offline_writes());
      wanted.erase(found);
      continue;
    }
    if (absl::Status status = replica->Stop(kRemoveTimeout); !status.ok()) {
      log::Warning("replica not handed back",
                   {{"collection", collection}, {"error", std::string(status.message())}});
    }
    if (found == wanted.end() ||
        found->second->lower_dir() != replica->options().assigned.lower_dir()) {
      if (absl::Status status = replica->Retire(); !status.ok()) {
        log::Error("the replica's database cannot be written",
                   {{"collection", collection}, {"error", std::string(status.message())}});
      }
    }
    log::Info("replica stopped; its files stay",
              {{"collection", collection}, {"lower_dir", replica->options().assigned.lower_dir()}});
    absl::MutexLock lock(&mu_);
    running_.erase(collection);
  }
  running.clear();

  std::map<std::string, std::string> errors;
  for (const auto& [collection, assigned] : wanted) {
    if (assignment.ordinal() == 0) break;  // never registered: nothing can be served yet
    auto opened = OpenReplica(*assigned, Ordinal(assignment.ordinal()));
    absl::MutexLock lock(&mu_);
    if (opened.ok()) {
      running_[collection] = *std::move(opened);
      continue;
    }
    errors[collection] = std::string(opened.status().message());
    if (errors_[collection] != errors[collection]) {
      log::Error("replica cannot be opened",
                 {{"collection", collection}, {"error", errors[collection]}});
    }
  }
  absl::MutexLock lock(&mu_);
  errors_ = errors;
  return !errors.empty();
}

absl::StatusOr<std::shared_ptr<HostedReplica>> Sidecar::OpenReplica(
    const storage::v1::AssignedReplica& assigned, Ordinal ordinal) {
  HostedReplica::Options options;
  options.node = config_.node();
  options.instance = instance_;
  options.ordinal = ordinal;
  options.assigned = assigned;
  options.data_dir = absl::StrCat(config_.data_dir(), "/replicas/", assigned.collection());
  options.token_wait =
      DurationOr(config_.has_token_wait(), config_.token_wait(), absl::Seconds(30));
  options.disconnect_after =
      DurationOr(config_.has_disconnect_after(), config_.disconnect_after(), absl::Seconds(3));
  options.token = token_;
  options.journal = journal_;
  options.forwarder = forwarder_;
  options.metrics = metrics_;
  options.presto = presto_;
  auto opened = HostedReplica::Open(std::move(options));
  if (!opened.ok()) return opened.status();
  return std::shared_ptr<HostedReplica>(*std::move(opened));
}

node::v1::GetNodeStatusResponse Sidecar::NodeStatus() {
  node::v1::GetNodeStatusResponse response;
  absl::MutexLock lock(&mu_);
  response.set_node(config_.node());
  response.set_instance(instance_);
  response.set_ordinal(assignment_.ordinal());
  std::set<std::string> listed;
  for (const auto& [collection, replica] : running_) {
    *response.add_replicas() = replica->status();
    listed.insert(collection);
  }
  for (const auto& assigned : assignment_.replicas()) {
    if (listed.contains(assigned.collection())) continue;
    node::v1::ReplicaStatus& status = *response.add_replicas();
    status.set_collection(assigned.collection());
    status.set_lower_dir(assigned.lower_dir());
    status.set_mount_dir(assigned.mount_dir());
    const auto error = errors_.find(assigned.collection());
    status.set_connection(error == errors_.end() ? node::v1::CONNECTION_JOINING
                                                 : node::v1::CONNECTION_FAILED);
    if (error != errors_.end()) status.set_error(error->second);
  }
  return response;
}

}  // namespace intermezzo::sidecar
