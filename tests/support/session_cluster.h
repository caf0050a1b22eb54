// The server as real processes, and nodes in this process without a mount: scripted writers stand
// where the interceptor would. Each node reaches the server through a proxy of its own.
#pragma once

#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/sidecar/sidecar.h"
#include "tests/support/child_process.h"
#include "tests/support/scripted_writer.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::tests {

class SessionCluster {
 public:
  struct Options {
    int nodes = 3;
    absl::Duration lease = absl::Seconds(3);
    absl::Duration token_wait = absl::Seconds(60);
    absl::Duration disconnect_after = absl::Milliseconds(1500);
  };
  explicit SessionCluster(Options options);
  SessionCluster() : SessionCluster(Options()) {}
  ~SessionCluster();

  // "journal-service", "token-service", "forwarder-service"; at the address it had before.
  void StartService(const std::string& name);
  void KillService(const std::string& name);

  void StartNode(int node);
  // `drain`: as on SIGTERM; otherwise it just goes away.
  void StopNode(int node, bool drain);
  // cut, reset or mend its way to the server.
  void Proxy(int node, const std::string& command);
  // What the server has sent to the node so far.
  uint64_t BytesFromServer(int node);

  // The collection is www.
  void CreateCollection(bool offline_writes = true);
  void AddReplica(int node);
  void RemoveReplica(int node);
  std::string Lower(int node) const;
  std::shared_ptr<sidecar::HostedReplica> Replica(int node);
  ScriptedWriter Writer(int node);
  sidecar::ReplicaSession::Status Status(int node);
  // Waits for the state; false after half a minute.
  bool AwaitPhase(int node, sidecar::Connection::Phase phase);
  // Waits until every node is connected, has nothing pending and stands at the journal's end; then
  // says what differs between their lower directories.
  std::vector<std::string> Settle(const std::vector<int>& nodes);
  uint64_t JournalHead();
  const std::string& dir() const { return dir_.path(); }

 private:
  struct Node {
    std::unique_ptr<ChildProcess> proxy;
    std::map<std::string, std::string> addresses;  // of the services, through the proxy
    std::shared_ptr<prometheus::Registry> metrics;
    std::unique_ptr<sidecar::Sidecar> sidecar;
  };

  const Options options_;
  const TempDir dir_;
  std::map<std::string, std::unique_ptr<ChildProcess>> services_;
  std::map<std::string, std::string> addresses_;
  std::map<std::string, std::string> metrics_;
  std::map<int, Node> nodes_;
  int requests_ = 0;
};

}  // namespace intermezzo::tests
