#include "tests/support/session_cluster.h"

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "services/common/config/config.h"
#include "services/common/rpc/channel.h"
#include "tests/support/eventually.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::tests {

namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "session cluster: %s\n", what.c_str());
  std::abort();
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// "name: value" lines.
std::map<std::string, std::string> ReadAddresses(const std::string& path, size_t lines) {
  std::map<std::string, std::string> out;
  const bool there = Eventually([&] {
    out.clear();
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) out[line.substr(0, colon)] = line.substr(colon + 2);
    }
    return out.size() >= lines;
  });
  if (!there) Die(path + " was not written");
  return out;
}

void Bound(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
}

}  // namespace

// ---- the cluster -------------------------------------------------------------------------------

SessionCluster::SessionCluster(Options options) : options_(options) {
  for (const char* name : {"journal-service", "token-service", "forwarder-service"}) {
    StartService(name);
  }
  for (int node = 1; node <= options_.nodes; ++node) StartNode(node);
}

SessionCluster::~SessionCluster() {
  for (auto& [number, node] : nodes_) {
    if (node.sidecar != nullptr) StopNode(number, true);
  }
  if (!::testing::Test::HasFailure()) return;
  for (const auto& [name, process] : services_) {
    std::fprintf(stderr, "---- %s\n%s", name.c_str(),
                 ReadAll(absl::StrCat(dir(), "/", name, ".log")).c_str());
  }
}

void SessionCluster::StartService(const std::string& name) {
  const std::string base = absl::StrCat(dir(), "/", name);
  std::ofstream(base + ".yaml", std::ios::trunc)
      << "runner: {insecure: true, log_level: info, address_file: " << base << ".address"
      << ", listen: \"" << (addresses_.contains(name) ? addresses_[name] : "127.0.0.1:0") << "\"}\n"
      << (name == "forwarder-service" ? "" : absl::StrCat("data_dir: ", base, "\n"))
      << (name == "journal-service"
              ? ""
              : absl::StrCat("journal_address: ", addresses_["journal-service"], "\n"))
      << (name == "forwarder-service"
              ? absl::StrCat("token_address: ", addresses_["token-service"], "\n")
              : "")
      << (name == "token-service"
              ? absl::StrCat("lease: ", absl::ToInt64Milliseconds(options_.lease), "ms\n")
              : "");
  std::filesystem::remove(base + ".address");
  services_[name] = std::make_unique<ChildProcess>(
      std::vector<std::string>{absl::StrCat(SERVICES_DIR, "/", name), "--config", base + ".yaml"},
      base + ".log");
  auto addresses = ReadAddresses(base + ".address", 2);
  addresses_[name] = addresses["grpc"];
  metrics_[name] = addresses["metrics"];
}

void SessionCluster::KillService(const std::string& name) { services_.erase(name); }

void SessionCluster::StartNode(int number) {
  Node& node = nodes_[number];
  const std::string base = absl::StrCat(dir(), "/node", number);
  std::filesystem::create_directory(base);
  if (node.proxy == nullptr) {
    std::vector<std::string> arguments = {CUT_PROXY,     "serve",          "--control",
                                          base + "/ctl", "--address-file", base + "/proxy"};
    for (const auto& [service, address] : addresses_) {
      arguments.push_back("--forward");
      arguments.push_back(absl::StrCat(service, "=127.0.0.1:0=", address));
    }
    node.proxy = std::make_unique<ChildProcess>(arguments, base + "/proxy.log");
    node.addresses = ReadAddresses(base + "/proxy", addresses_.size());
  }
  config::v1::SidecarConfig config;
  config.set_node(absl::StrCat("node", number));
  config.set_data_dir(base + "/data");
  config.set_token_address(node.addresses["token-service"]);
  config.set_journal_address(node.addresses["journal-service"]);
  config.set_forwarder_address(node.addresses["forwarder-service"]);
  *config.mutable_token_wait() = ToProto(options_.token_wait);
  *config.mutable_disconnect_after() = ToProto(options_.disconnect_after);
  node.metrics = std::make_shared<prometheus::Registry>();
  RunnerContext context;
  context.metrics = node.metrics;
  auto sidecar = sidecar::Sidecar::Build(config, context, nullptr);
  if (!sidecar.ok()) Die(sidecar.status().ToString());
  node.sidecar = *std::move(sidecar);
  const absl::Status started = node.sidecar->Start("127.0.0.1:1");
  if (!started.ok()) Die(started.ToString());
}

void SessionCluster::StopNode(int node, bool drain) {
  if (drain) nodes_[node].sidecar->Drain(absl::Seconds(10));
  nodes_[node].sidecar.reset();
}

void SessionCluster::Proxy(int node, const std::string& command) {
  ChildProcess ctl({CUT_PROXY, "ctl", absl::StrCat(dir(), "/node", node, "/ctl"), command},
                   absl::StrCat(dir(), "/node", node, "/proxy.log"));
  if (ctl.ExitCode() != 0) Die("cut_proxy ctl " + command);
}

uint64_t SessionCluster::BytesFromServer(int node) {
  const std::string base = absl::StrCat(dir(), "/node", node);
  std::filesystem::remove(base + "/count");
  ChildProcess ctl({CUT_PROXY, "ctl", base + "/ctl", "count"}, base + "/count");
  uint64_t bytes = 0;
  const bool counted = ctl.ExitCode() == 0;
  if (!counted || !absl::SimpleAtoi(ReadAll(base + "/count"), &bytes)) Die("cut_proxy ctl count");
  return bytes;
}

void SessionCluster::CreateCollection(bool offline_writes) {
  auto stub = registry::v1::RegistryService::NewStub(MakeChannel(addresses_["token-service"]));
  registry::v1::CreateCollectionRequest request;
  request.mutable_collection()->set_name("www");
  request.mutable_collection()->set_offline_writes(
      offline_writes ? registry::v1::OFFLINE_WRITES_ALLOW : registry::v1::OFFLINE_WRITES_DENY);
  request.set_request_id("create");
  registry::v1::CreateCollectionResponse response;
  grpc::ClientContext context;
  Bound(context);
  const grpc::Status status = stub->CreateCollection(&context, request, &response);
  if (!status.ok()) Die(status.error_message());
}

std::string SessionCluster::Lower(int node) const {
  return absl::StrCat(dir(), "/node", node, "/lower");
}

void SessionCluster::AddReplica(int node) {
  auto stub = registry::v1::RegistryService::NewStub(MakeChannel(addresses_["token-service"]));
  registry::v1::AddReplicaRequest request;
  request.mutable_replica()->set_collection("www");
  request.mutable_replica()->set_node(absl::StrCat("node", node));
  request.mutable_replica()->set_lower_dir(Lower(node));
  request.mutable_replica()->set_mount_dir(absl::StrCat(dir(), "/node", node, "/mnt"));
  request.set_request_id(absl::StrCat("add", ++requests_));
  // The node registers by itself.
  std::string error;
  const bool added = Eventually([&] {
    registry::v1::AddReplicaResponse response;
    grpc::ClientContext context;
    Bound(context);
    const grpc::Status status = stub->AddReplica(&context, request, &response);
    error = status.error_message();
    return status.ok();
  });
  if (!added) Die(error);
}

void SessionCluster::RemoveReplica(int node) {
  auto stub = registry::v1::RegistryService::NewStub(MakeChannel(addresses_["token-service"]));
  registry::v1::RemoveReplicaRequest request;
  request.set_collection("www");
  request.set_node(absl::StrCat("node", node));
  request.set_request_id(absl::StrCat("remove", ++requests_));
  registry::v1::RemoveReplicaResponse response;
  grpc::ClientContext context;
  Bound(context);
  const grpc::Status status = stub->RemoveReplica(&context, request, &response);
  if (!status.ok()) Die(status.error_message());
  const bool gone = Eventually([&] { return nodes_[node].sidecar->Find("www") == nullptr; });
  if (!gone) Die("the replica still runs");
}

std::shared_ptr<sidecar::HostedReplica> SessionCluster::Replica(int node) {
  std::shared_ptr<sidecar::HostedReplica> replica;
  if (!Eventually([&] { return (replica = nodes_[node].sidecar->Find("www")) != nullptr; })) {
    Die(absl::StrCat("node", node, " has no replica"));
  }
  return replica;
}

ScriptedWriter SessionCluster::Writer(int node) {
  auto hosted = Replica(node);
  sidecar::Replica* replica = &hosted->replica();
  return ScriptedWriter({std::move(hosted), replica});
}

sidecar::ReplicaSession::Status SessionCluster::Status(int node) {
  return Replica(node)->session().status();
}

bool SessionCluster::AwaitPhase(int node, sidecar::Connection::Phase phase) {
  return Eventually([&] { return Status(node).phase == phase; });
}

uint64_t SessionCluster::JournalHead() {
  auto stub = journal::v1::JournalService::NewStub(MakeChannel(addresses_["journal-service"]));
  journal::v1::GetJournalRequest request;
  request.set_collection("www");
  journal::v1::GetJournalResponse response;
  grpc::ClientContext context;
  Bound(context);
  const grpc::Status status = stub->GetJournal(&context, request, &response);
  if (!status.ok()) Die(status.error_message());
  return response.journal().head_seq();
}

std::vector<std::string> SessionCluster::Settle(const std::vector<int>& nodes) {
  std::string where;
  const bool settled = Eventually(
      [&] {
        where.clear();
        bool all = true;
        const uint64_t head = JournalHead();
        for (const int node : nodes) {
          auto hosted = Replica(node);
          const auto status = hosted->session().status();
          absl::StrAppend(&where, "node", node, " ", sidecar::PhaseName(status.phase), " ",
                          sidecar::TokenName(status.token), " cursor ",
                          hosted->replica().cursor().value(), " pending ",
                          hosted->replica().pending_records(), " of ", head, " ",
                          std::string(status.error.message()), "; ");
          all = all && status.phase == sidecar::Connection::Phase::kConnected &&
                hosted->replica().pending_records() == 0 && hosted->replica().cursor() == Seq(head);
        }
        return all;
      },
      absl::Seconds(60));
  if (!settled) return {"not settled: " + where};
  std::vector<std::string> differences;
  for (size_t i = 1; i < nodes.size(); ++i) {
    for (std::string& line : CompareTrees(Lower(nodes[0]), Lower(nodes[i]))) {
      differences.push_back(absl::StrCat("node", nodes[0], " and node", nodes[i], ": ", line));
    }
  }
  return differences;
}

}  // namespace intermezzo::tests
